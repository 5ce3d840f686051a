// Streams one generation: dotnet run -- http://127.0.0.1:50051 "Tell me a story."

using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using Tokenwire.Frontend.V1;

var target = args.Length > 0 ? args[0] : "http://127.0.0.1:50051";
var question = args.Length > 1 ? args[1] : "What is 2 + 2?";

// A peer that froze is noticed by pings.
using var channel = GrpcChannel.ForAddress(target, new GrpcChannelOptions
{
    HttpHandler = new SocketsHttpHandler
    {
        KeepAlivePingDelay = TimeSpan.FromSeconds(20),
        KeepAlivePingTimeout = TimeSpan.FromSeconds(10),
        EnableMultipleHttp2Connections = true,
    },
});
var client = new GenerationService.GenerationServiceClient(channel);
var request = new StreamGenerateRequest
{
    Generation = new Generation
    {
        Prompt = new Prompt
        {
            Chat = new Chat { Messages = { new ChatMessage { Role = Role.User, Content = question } } },
        },
        Stop = new StopConditions { MaxTokens = 200 },
    },
};

try
{
    // Disposing the call, or cancelling a token given as cancellationToken, ends the generation.
    using var call = client.StreamGenerate(request, deadline: DateTime.UtcNow.AddSeconds(60));
    await foreach (var response in call.ResponseStream.ReadAllAsync())
    {
        switch (response.EventCase)
        {
            case StreamGenerateResponse.EventOneofCase.Delta:
                Console.Write(response.Delta.Text);
                break;
            case StreamGenerateResponse.EventOneofCase.Completed:
                var usage = response.Completed.Usage;
                Console.WriteLine($"\n{usage.PromptTokens} prompt tokens, {usage.CompletionTokens} generated");
                break;
        }
    }
    return 0;
}
catch (RpcException error)
{
    Console.Error.WriteLine($"{error.StatusCode}: {error.Status.Detail}");
    var details = error.GetRpcStatus();
    if (details?.GetDetail<ErrorInfo>() is { } info)
    {
        Console.Error.WriteLine($"reason: {info.Reason}");
    }
    foreach (var violation in details?.GetDetail<BadRequest>()?.FieldViolations ?? [])
    {
        Console.Error.WriteLine($"field: {violation.Field}");
    }
    return 1;
}
