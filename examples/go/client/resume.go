package client

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	api "qwenserve/gen/go/qwenserve/v1"
)

// ResumeError says that a stream broke and the rest cannot be had token by token.
type ResumeError struct{ reason string }

func (e *ResumeError) Error() string { return "the stream cannot be resumed: " + e.reason }

// knownAnswer is what the caller has of an answer. The same request with the seed that the server
// told gives the same tokens wherever the fingerprint is the same, and so the same text. But its
// messages may be cut elsewhere, so what is known is dropped by position: tokens by their absolute
// index in the answer, text by its length.
type knownAnswer struct {
	started *api.Started // nil: no attempt was admitted yet
	choices map[uint32]*knownChoice
}

type knownChoice struct {
	tokens    []uint32
	text      knownText
	reasoning knownText
	arguments []*knownText // one per tool call
}

// repeat makes request the exact repetition of the attempt that was admitted, if there was one.
func (a *knownAnswer) repeat(request *api.ChatRequest) {
	if a.started == nil {
		return
	}
	request.Model = a.started.Model
	if request.Options == nil {
		request.Options = &api.GenerationOptions{}
	}
	if request.Options.Sampling == nil {
		request.Options.Sampling = &api.SamplingParams{}
	}
	request.Options.Sampling.Seed = proto.Uint64(a.started.Seed)
	for _, choice := range a.choices {
		choice.text.at, choice.reasoning.at = 0, 0
		for _, arguments := range choice.arguments {
			arguments.at = 0
		}
	}
}

// take returns what of event is new; nil: nothing.
func (a *knownAnswer) take(event *api.StreamChatResponse) (*api.StreamChatResponse, error) {
	if started := event.GetStarted(); started != nil {
		return a.takeStarted(event)
	}
	delta := event.GetDelta()
	if delta == nil {
		return event, nil
	}
	if a.choices == nil {
		a.choices = map[uint32]*knownChoice{}
	}
	choice := a.choices[delta.Choice]
	if choice == nil {
		choice = &knownChoice{}
		a.choices[delta.Choice] = choice
	}
	if err := choice.take(delta); err != nil {
		return nil, err
	}
	if delta.Text == "" && delta.Reasoning == "" && len(delta.TokenIds) == 0 && len(delta.ToolCalls) == 0 {
		return nil, nil
	}
	return event, nil
}

func (a *knownAnswer) takeStarted(event *api.StreamChatResponse) (*api.StreamChatResponse, error) {
	started := event.GetStarted()
	if a.started == nil {
		a.started = started
		return event, nil
	}
	if len(a.choices) > 0 && (started.Fingerprint == "" || started.Fingerprint != a.started.Fingerprint) {
		return nil, &ResumeError{fmt.Sprintf("the other replica has the fingerprint %q, the first had %q",
			started.Fingerprint, a.started.Fingerprint)}
	}
	return nil, nil
}

// take cuts what is known out of delta.
func (c *knownChoice) take(delta *api.ChatDelta) error {
	first := int(delta.FirstTokenIndex)
	if first > len(c.tokens) {
		return &ResumeError{fmt.Sprintf("token %d follows on %d tokens", first, len(c.tokens))}
	}
	known := 0
	for ; known < len(delta.TokenIds) && first+known < len(c.tokens); known++ {
		if delta.TokenIds[known] != c.tokens[first+known] {
			return &ResumeError{"the repeated answer has other tokens"}
		}
	}
	delta.FirstTokenIndex += uint32(known)
	delta.TokenIds = delta.TokenIds[known:]
	if len(delta.Logprobs) > 0 {
		delta.Logprobs = delta.Logprobs[known:]
	}
	c.tokens = append(c.tokens, delta.TokenIds...)
	var err error
	if delta.Text, err = c.text.take(delta.Text); err != nil {
		return err
	}
	if delta.Reasoning, err = c.reasoning.take(delta.Reasoning); err != nil {
		return err
	}
	return c.takeToolCalls(delta)
}

func (c *knownChoice) takeToolCalls(delta *api.ChatDelta) error {
	var rest []*api.ToolCallDelta
	for _, call := range delta.ToolCalls {
		isNew := int(call.Index) == len(c.arguments)
		if isNew {
			c.arguments = append(c.arguments, &knownText{})
		} else if int(call.Index) > len(c.arguments) {
			return &ResumeError{fmt.Sprintf("tool call %d follows on %d", call.Index, len(c.arguments))}
		} else {
			call.Id, call.Name = "", "" // came with the first piece
		}
		var err error
		if call.ArgumentsJson, err = c.arguments[call.Index].take(call.ArgumentsJson); err != nil {
			return err
		}
		if isNew || call.ArgumentsJson != "" {
			rest = append(rest, call)
		}
	}
	delta.ToolCalls = rest
	return nil
}

// knownText is a text that comes in pieces, maybe for a second time.
type knownText struct {
	text strings.Builder
	at   int // of this time
}

// take returns what of piece is new.
func (t *knownText) take(piece string) (string, error) {
	overlap := t.text.Len() - t.at
	if overlap > len(piece) {
		overlap = len(piece)
	}
	if piece[:overlap] != t.text.String()[t.at:t.at+overlap] {
		return "", &ResumeError{"the repeated answer has another text"}
	}
	t.at += len(piece)
	t.text.WriteString(piece[overlap:])
	return piece[overlap:], nil
}
