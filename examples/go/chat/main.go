// Command chat asks a qwenserve gateway one question and prints the answer as it comes.
//
//	chat -address gateway-1:50051,gateway-2:50051 -timeout 1m "What is a token?"
//
// The API key comes from QWENSERVE_API_KEY.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"qwenserve/client"
	api "qwenserve/gen/go/qwenserve/v1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		if info := client.ErrorInfo(err); info != nil {
			fmt.Fprintln(os.Stderr, "chat: reason", info.Reason, info.Metadata)
		}
		os.Exit(1)
	}
}

func run() error {
	address := os.Getenv("QWENSERVE_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	flag.StringVar(&address, "address", address, "gateways, separated by commas")
	model := flag.String("model", "", "served name; empty: the only one")
	maxTokens := flag.Uint("max-tokens", 0, "most tokens of the answer; 0: as many as fit")
	temperature := flag.Float64("temperature", -1, "0: the most probable tokens; < 0: the model's own")
	timeout := flag.Duration("timeout", 5*time.Minute, "for the answer, with all attempts")
	ca := flag.String("ca", "", "certificates (PEM) that sign the gateways'; empty: no TLS")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}

	// Newer versions of gRPC have insecure.NewCredentials() for it, older ones only this.
	security := grpc.WithInsecure()
	if *ca != "" {
		certificates, err := credentials.NewClientTLSFromFile(*ca, "")
		if err != nil {
			return err
		}
		security = grpc.WithTransportCredentials(certificates)
	}
	gateways, err := client.Dial(strings.Split(address, ","), os.Getenv("QWENSERVE_API_KEY"), security)
	if err != nil {
		return err
	}
	defer gateways.Close()

	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	request := &api.ChatRequest{
		Model: *model,
		Input: &api.ChatInput{Messages: []*api.ChatMessage{
			{Role: api.Role_ROLE_USER, Content: flag.Arg(0)}}},
		Options: &api.GenerationOptions{Sampling: &api.SamplingParams{}},
	}
	if *maxTokens > 0 {
		request.Options.MaxTokens = proto.Uint32(uint32(*maxTokens))
	}
	if *temperature >= 0 {
		request.Options.Sampling.Temperature = proto.Float32(float32(*temperature))
	}
	return show(gateways.StreamChat(ctx, request))
}

// show writes the answer to stdout, and to stderr what is worth knowing about it.
func show(stream *client.Stream) error {
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if started := event.GetStarted(); started != nil {
			fmt.Fprintf(os.Stderr, "model %s, seed %d\n", started.Model, started.Seed)
		}
		fmt.Print(event.GetDelta().GetText())
		if finished := event.GetFinished(); finished != nil {
			fmt.Println()
			fmt.Fprintf(os.Stderr, "%d prompt tokens, %d of the answer, %s\n", finished.Usage.GetPromptTokens(),
				finished.Usage.GetCompletionTokens(), finished.Choices[0].GetFinishReason())
		}
	}
}
