// Package client calls qwenserve's gRPC API: a deadline over all attempts, retries when the server
// asks for them, and streams that go on at another gateway.
package client

//go:generate protoc -I../../../proto --go_out=.. --go_opt=module=qwenserve --go-grpc_out=.. --go-grpc_opt=module=qwenserve qwenserve/v1/inference.proto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	api "qwenserve/gen/go/qwenserve/v1"
)

const (
	attemptsWithoutProgress = 5
	firstBackoff            = 100 * time.Millisecond
	longestBackoff          = 5 * time.Second
)

// Client may be used by several goroutines. Calls go to one of its gateways as long as it answers,
// then to the next.
type Client struct {
	apiKey   string
	channels []*grpc.ClientConn
	stubs    []api.InferenceClient
	current  uint32 // atomic: calls made so far to leave a gateway
}

// Dial makes a client of the gateways at addresses, without waiting for a connection. apiKey may be
// empty. options must say how connections are secured: grpc.WithInsecure() or
// grpc.WithTransportCredentials(...).
func Dial(addresses []string, apiKey string, options ...grpc.DialOption) (*Client, error) {
	if len(addresses) == 0 {
		return nil, errors.New("addresses: at least one is needed")
	}
	// A gateway that hangs counts as gone after 15 s.
	options = append([]grpc.DialOption{grpc.WithKeepaliveParams(
		keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second})}, options...)
	client := &Client{apiKey: apiKey}
	for _, address := range addresses {
		channel, err := grpc.Dial(address, options...)
		if err != nil {
			client.Close()
			return nil, fmt.Errorf("gateway %q: %w", address, err)
		}
		client.channels = append(client.channels, channel)
		client.stubs = append(client.stubs, api.NewInferenceClient(channel))
	}
	return client, nil
}

// Close ends all calls and connections.
func (c *Client) Close() {
	for _, channel := range c.channels {
		channel.Close()
	}
}

// StreamChat begins an answer. The deadline of ctx holds for all attempts together and is told to
// the server; cancel ctx to end the answer early.
func (c *Client) StreamChat(ctx context.Context, request *api.ChatRequest) *Stream {
	if c.apiKey != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.apiKey)
	}
	return &Stream{client: c, ctx: ctx, request: proto.Clone(request).(*api.ChatRequest),
		attempts: attemptsWithoutProgress, backoff: firstBackoff}
}

// Stream is one answer over all its attempts. It belongs to one goroutine.
type Stream struct {
	client  *Client
	ctx     context.Context
	request *api.ChatRequest
	answer  knownAnswer

	call    api.Inference_StreamChatClient // nil: none is under way
	cancel  context.CancelFunc
	gateway uint32 // client.current when the call began

	attempts int
	backoff  time.Duration
	end      error // nil: there may be more
}

// Recv waits for the next event: Started, then deltas, then Finished, then io.EOF. Each token and
// each character comes once, in order, whatever happens on the way. Other errors are a status of
// gRPC, or a *ResumeError; after an error there is nothing more.
func (s *Stream) Recv() (*api.StreamChatResponse, error) {
	for s.end == nil {
		event, err := s.recvOnce()
		if err != nil {
			s.endCall()
			s.end = s.afterError(err)
			continue
		}
		if event, s.end = s.answer.take(event); s.end != nil {
			s.endCall()
		} else if event != nil { // otherwise it is known already
			s.attempts, s.backoff = attemptsWithoutProgress, firstBackoff
			return event, nil
		}
	}
	return nil, s.end
}

func (s *Stream) recvOnce() (*api.StreamChatResponse, error) {
	if s.call == nil {
		s.answer.repeat(s.request)
		s.gateway = atomic.LoadUint32(&s.client.current)
		stub := s.client.stubs[int(s.gateway)%len(s.client.stubs)]
		ctx, cancel := context.WithCancel(s.ctx)
		call, err := stub.StreamChat(ctx, s.request)
		if err != nil {
			cancel()
			return nil, err
		}
		s.call, s.cancel = call, cancel
	}
	return s.call.Recv()
}

func (s *Stream) endCall() {
	if s.call != nil {
		s.cancel()
		s.call = nil
	}
}

// afterError makes the next calls go elsewhere unless the gateway is only busy: that one knows when it
// has room, and if it were left, all clients would move together. Then it sleeps as long as the server
// asks, or longer each time. It returns err where another attempt is of no use or would come too late.
func (s *Stream) afterError(err error) error {
	if err == io.EOF {
		return err
	}
	if status.Code(err) != codes.ResourceExhausted {
		atomic.CompareAndSwapUint32(&s.client.current, s.gateway, s.gateway+1)
	}
	s.attempts--
	if s.attempts <= 0 || !mayRetry(err) {
		return err
	}
	delay, asked := retryDelay(err)
	if !asked {
		delay = time.Duration(float64(s.backoff) * (0.5 + rand.Float64()))
		if s.backoff *= 2; s.backoff > longestBackoff {
			s.backoff = longestBackoff
		}
	}
	if deadline, ok := s.ctx.Deadline(); ok && time.Until(deadline) <= delay {
		return err
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}
