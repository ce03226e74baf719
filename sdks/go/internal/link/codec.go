package link

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	encodingproto "google.golang.org/grpc/encoding/proto"
)

// Encoded is a message that is already encoded. Streams send their messages in this form, since tasks and outcomes are
// encoded by the goroutines that made them and are then only joined.
type Encoded []byte

// codec sends Encoded messages as they are, and decodes with the codec of gRPC.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

// Marshal returns the bytes of a message.
func (c codec) Marshal(message any) (mem.BufferSlice, error) {
	if encoded, is := message.(Encoded); is {
		return mem.BufferSlice{mem.SliceBuffer(encoded)}, nil
	}
	return c.CodecV2.Marshal(message)
}
