// Streams one generation: stream 127.0.0.1:50051 'Tell me a story.'

#include <chrono>
#include <iostream>
#include <string>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tokenwire/frontend/v1/generation.grpc.pb.h"

namespace {

namespace tw = tokenwire::frontend::v1;

// Of the whole call; the frontend ends the generation when it has passed.
constexpr std::chrono::seconds kDeadline{60};

// A peer that froze is noticed by pings; the frontend takes one every 10 s.
constexpr int kKeepaliveMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

tw::StreamGenerateRequest RequestOf(const std::string& question) {
  tw::StreamGenerateRequest request;
  auto* generation = request.mutable_generation();
  auto* message = generation->mutable_prompt()->mutable_chat()->add_messages();
  message->set_role(tw::ROLE_USER);
  message->set_content(question);
  generation->mutable_stop()->set_max_tokens(200);
  return request;
}

// Prints what an error says, with its reason and the fields at fault.
void Tell(const grpc::Status& status) {
  std::cerr << "status " << status.error_code() << ": " << status.error_message() << "\n";
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return;
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (detail.UnpackTo(&info)) {
      std::cerr << "reason: " << info.reason() << "\n";
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& each : bad.field_violations()) std::cerr << "field: " << each.field() << "\n";
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string target = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const std::string question = argc > 2 ? argv[2] : "What is 2 + 2?";
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  const auto stub = tw::GenerationService::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));

  grpc::ClientContext context;  // context.TryCancel() ends the generation
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  const auto reader = stub->StreamGenerate(&context, RequestOf(question));
  tw::StreamGenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_delta()) {
      std::cout << response.delta().text() << std::flush;
    } else if (response.has_completed()) {
      const auto& usage = response.completed().usage();
      std::cout << "\n" << usage.prompt_tokens() << " prompt tokens, " << usage.completion_tokens()
                << " generated\n";
    }
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) Tell(status);
  return status.ok() ? 0 : 1;
}
