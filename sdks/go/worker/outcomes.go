package worker

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// kind is the way in which a delivery ends, as in codeq.v1.OutcomeKind.
type kind int

const (
	completed kind = 1
	failed    kind = 2
	nacked    kind = 3
	abandoned kind = 4
)

const (
	// noError is the error of a failure without a text: the server requires one.
	noError = "no error was given"
	// errorBytesMax keeps messages small; the server cuts errors to 4096 characters.
	errorBytesMax = 32 << 10
	// delayMax is the longest delay that fits its field; the server cuts delays to 12 h.
	delayMax = math.MaxInt32
)

// Numbers of the fields of WorkRequest.
const (
	creditsField     = 2
	creditBytesField = 3
	outcomesField    = 4
	heartbeatsField  = 5
	drainField       = 6
	progressField    = 7
	artifactsField   = 8
	tokenField       = 9
	returnField      = 10
)

func (k kind) text() string {
	switch k {
	case completed:
		return "completed"
	case failed:
		return "failed"
	case nacked:
		return "nacked"
	default:
		return "abandoned"
	}
}

// outcome is how a handler ended.
type outcome struct {
	kind      kind
	result    []byte
	hasResult bool
	err       string
	delay     *time.Duration
	parks     bool
}

// report is an outcome on its way to the server.
type report struct {
	delivery      *Delivery
	data          []byte // fields of a WorkRequest
	isReplacement bool   // it replaces an outcome that the server rejected
}

// newReport encodes the outcome of a delivery.
func newReport(delivery *Delivery, done outcome, artifacts []Artifact) (*report, error) {
	data := appendOutcome(make([]byte, 0, len(done.result)+len(delivery.ID)+len(done.err)+48), delivery, done)
	if len(artifacts) > 0 && (done.kind == completed || done.kind == failed) {
		var err error
		if data, err = appendArtifacts(data, delivery, artifacts); err != nil {
			return nil, err
		}
	}
	return &report{delivery: delivery, data: data}, nil
}

// appendOutcome appends an Outcome, whose length goes before it.
func appendOutcome(data []byte, delivery *Delivery, done outcome) []byte {
	text := printable(done.err)
	if done.kind == failed && strings.TrimSpace(text) == "" {
		text = noError
	}
	if done.kind == completed || done.kind == abandoned {
		text = ""
	}
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(delivery.ID)) +
		protowire.SizeTag(2) + protowire.SizeVarint(delivery.LeaseToken) + protowire.SizeTag(3) + protowire.SizeVarint(uint64(done.kind))
	if done.hasResult {
		size += protowire.SizeTag(4) + protowire.SizeBytes(len(done.result))
	}
	if text != "" {
		size += protowire.SizeTag(5) + protowire.SizeBytes(len(text))
	}
	seconds, hasDelay := secondsOf(done.delay)
	if hasDelay {
		size += protowire.SizeTag(6) + protowire.SizeVarint(seconds)
	}
	if done.parks {
		size += protowire.SizeTag(7) + 1
	}
	data = protowire.AppendTag(data, outcomesField, protowire.BytesType)
	data = protowire.AppendVarint(data, uint64(size))
	data = appendLease(data, delivery)
	data = protowire.AppendVarint(protowire.AppendTag(data, 3, protowire.VarintType), uint64(done.kind))
	if done.hasResult {
		data = protowire.AppendBytes(protowire.AppendTag(data, 4, protowire.BytesType), done.result)
	}
	if text != "" {
		data = protowire.AppendString(protowire.AppendTag(data, 5, protowire.BytesType), text)
	}
	if hasDelay {
		data = protowire.AppendVarint(protowire.AppendTag(data, 6, protowire.VarintType), seconds)
	}
	if done.parks {
		data = protowire.AppendVarint(protowire.AppendTag(data, 7, protowire.VarintType), 1)
	}
	return data
}

// appendLease appends the fields with which outcomes, heartbeats and progress name their lease.
func appendLease(data []byte, delivery *Delivery) []byte {
	data = protowire.AppendString(protowire.AppendTag(data, 1, protowire.BytesType), delivery.ID)
	return protowire.AppendVarint(protowire.AppendTag(data, 2, protowire.VarintType), delivery.LeaseToken)
}

func appendHeartbeat(data []byte, delivery *Delivery) []byte {
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(delivery.ID)) + protowire.SizeTag(2) + protowire.SizeVarint(delivery.LeaseToken)
	data = protowire.AppendTag(data, heartbeatsField, protowire.BytesType)
	return appendLease(protowire.AppendVarint(data, uint64(size)), delivery)
}

func appendProgress(data []byte, delivery *Delivery, value []byte) []byte {
	size := protowire.SizeTag(1) + protowire.SizeBytes(len(delivery.ID)) + protowire.SizeTag(2) +
		protowire.SizeVarint(delivery.LeaseToken) + protowire.SizeTag(3) + protowire.SizeBytes(len(value))
	data = protowire.AppendTag(data, progressField, protowire.BytesType)
	data = appendLease(protowire.AppendVarint(data, uint64(size)), delivery)
	return protowire.AppendBytes(protowire.AppendTag(data, 3, protowire.BytesType), value)
}

func appendArtifacts(data []byte, delivery *Delivery, artifacts []Artifact) ([]byte, error) {
	filed := &codeqv1.OutcomeArtifacts{TaskId: delivery.ID, LeaseToken: delivery.LeaseToken}
	for _, each := range artifacts {
		filed.Artifacts = append(filed.Artifacts, each.message())
	}
	encoded, err := proto.Marshal(filed)
	if err != nil {
		return nil, err
	}
	return protowire.AppendBytes(protowire.AppendTag(data, artifactsField, protowire.BytesType), encoded), nil
}

func secondsOf(delay *time.Duration) (seconds uint64, has bool) {
	if delay == nil {
		return 0, false
	}
	return uint64(min(max(0, math.Ceil(delay.Seconds())), delayMax)), true
}

// printable returns a text that can be sent: valid UTF-8, and not longer than the server could want.
func printable(text string) string {
	if len(text) > errorBytesMax {
		text = text[:errorBytesMax]
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return text
}
