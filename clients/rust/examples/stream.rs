//! Streams one generation: cargo run --example stream -- http://127.0.0.1:50051 'Tell me a story.'

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use prost::Message;
use tokenwire::frontend::v1::generation_service_client::GenerationServiceClient;
use tokenwire::frontend::v1::stream_generate_response::Event;
use tokenwire::frontend::v1::{
    prompt, Chat, ChatMessage, Generation, Prompt, Role, StopConditions, StreamGenerateRequest,
};
use tokenwire::rpc::{BadRequest, ErrorInfo};

/// Of the whole call; the frontend ends the generation when it has passed.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap_or("http://127.0.0.1:50051".into());
    let question = arguments.next().unwrap_or("What is 2 + 2?".into());
    let mut client = GenerationServiceClient::connect(target).await?;
    match stream(&mut client, question).await {
        Ok(()) => Ok(()),
        Err(status) => Err(told(&status).into()),
    }
}

async fn stream(
    client: &mut GenerationServiceClient<tonic::transport::Channel>,
    question: String,
) -> Result<(), tonic::Status> {
    let message = ChatMessage {
        role: Role::User.into(),
        content: Some(question),
        ..Default::default()
    };
    let chat = Chat {
        messages: vec![message],
        ..Default::default()
    };
    let generation = Generation {
        prompt: Some(Prompt {
            content: Some(prompt::Content::Chat(chat)),
            ..Default::default()
        }),
        stop: Some(StopConditions {
            max_tokens: Some(200),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut request = tonic::Request::new(StreamGenerateRequest {
        generation: Some(generation),
        ..Default::default()
    });
    request.set_timeout(DEADLINE);
    let mut events = client.stream_generate(request).await?.into_inner();
    // Dropping `events` cancels the generation.
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Delta(delta)) => {
                print!("{}", delta.text);
                let _ = std::io::stdout().flush();
            }
            Some(Event::Completed(completed)) => {
                let usage = completed.usage.unwrap_or_default();
                println!(
                    "\n{} prompt tokens, {} generated",
                    usage.prompt_tokens, usage.completion_tokens
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns what an error says, with its reason and the fields at fault.
fn told(status: &tonic::Status) -> String {
    let mut lines = vec![format!("{:?}: {}", status.code(), status.message())];
    let Ok(details) = tokenwire::rpc::Status::decode(status.details()) else {
        return lines.concat();
    };
    for detail in details.details {
        if detail.type_url.ends_with("google.rpc.ErrorInfo") {
            if let Ok(info) = ErrorInfo::decode(&*detail.value) {
                lines.push(format!("reason: {}", info.reason));
            }
        } else if detail.type_url.ends_with("google.rpc.BadRequest") {
            if let Ok(bad) = BadRequest::decode(&*detail.value) {
                lines.extend(
                    bad.field_violations
                        .into_iter()
                        .map(|each| format!("field: {}", each.field)),
                );
            }
        }
    }
    lines.join("\n")
}
