package producer

import (
	"context"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// tasksField is the number of ProduceRequest.tasks.
const tasksField = 2

// Task is a task to create.
type Task struct {
	// Command is the name of the queue, and so the type of the task: 1 to 128 characters of A-Z a-z 0-9 . _ -.
	Command string
	// Payload is anything that encoding/json can encode, at most 1 MiB; json.RawMessage and []byte are sent as they are.
	Payload any
	// Priority is 0 (default) to 9; tasks with the highest priority are delivered first.
	Priority int
	// Delay is the time before the first delivery, rounded up to whole seconds. Cannot be combined with RunAt.
	Delay time.Duration
	// RunAt is the time of the earliest delivery. Zero: at once.
	RunAt time.Time
	// Expire is the time, rounded up to whole seconds, after which a task that is still waiting ends as FAILED with the
	// error EXPIRED. 0: never.
	Expire time.Duration
	// MaxAttempts is the number of deliveries, 1 to 1000, after which the task goes to the dead-letter queue. 0: the
	// server's default, usually 5.
	MaxAttempts int
	// IdempotencyKey makes repeated creates return the same task: 1 to 256 printable ASCII characters. Empty: none.
	IdempotencyKey string
	// TaskID is the id of the task, unique within the tenant. Empty: the server assigns one. Cannot be combined with a key.
	TaskID string
	// Trace is the trace context sent with the task. Zero: that of the context of the create.
	Trace codeq.Trace
	// Webhook is the URL (http or https) to which the server reports the end of the task. Empty: none.
	Webhook string
	// ConcurrencyKey limits how many tasks of the command with the same key run at a time. Empty: none.
	ConcurrencyKey string
	// RateKey limits how fast tasks of the command with the same key are delivered. Empty: none.
	RateKey string
	// OrderingKey makes tasks of the command with the same key run one at a time, in the order of acceptance. Empty: none.
	OrderingKey string
}

// Option sets a field of a task.
type Option func(*Task)

// Priority sets the priority, 0 to 9; tasks with the highest priority are delivered first.
func Priority(priority int) Option { return func(task *Task) { task.Priority = priority } }

// Delay sets the time before the first delivery.
func Delay(delay time.Duration) Option { return func(task *Task) { task.Delay = delay } }

// RunAt sets the time of the earliest delivery.
func RunAt(at time.Time) Option { return func(task *Task) { task.RunAt = at } }

// Expire sets the time after which the task ends if it is still waiting.
func Expire(after time.Duration) Option { return func(task *Task) { task.Expire = after } }

// MaxAttempts sets the number of deliveries after which the task goes to the dead-letter queue.
func MaxAttempts(count int) Option { return func(task *Task) { task.MaxAttempts = count } }

// IdempotencyKey sets the key that makes repeated creates return the same task.
func IdempotencyKey(key string) Option { return func(task *Task) { task.IdempotencyKey = key } }

// TaskID sets the id of the task.
func TaskID(id string) Option { return func(task *Task) { task.TaskID = id } }

// Trace sets the trace context sent with the task.
func Trace(trace codeq.Trace) Option { return func(task *Task) { task.Trace = trace } }

// Webhook sets the URL to which the server reports the end of the task.
func Webhook(url string) Option { return func(task *Task) { task.Webhook = url } }

// ConcurrencyKey sets the key that limits how many tasks run at a time.
func ConcurrencyKey(key string) Option { return func(task *Task) { task.ConcurrencyKey = key } }

// RateKey sets the key that limits how fast tasks are delivered.
func RateKey(key string) Option { return func(task *Task) { task.RateKey = key } }

// OrderingKey sets the key that keeps tasks in order.
func OrderingKey(key string) Option { return func(task *Task) { task.OrderingKey = key } }

// Spec returns the task as a message, with its payload encoded. Errors name the field.
func (t *Task) Spec() (*codeqv1.TaskSpec, error) {
	payload, err := codeq.EncodeJSON(t.Payload, "payload")
	if err != nil {
		return nil, err
	}
	if _, err := t.texts(); err != nil {
		return nil, err
	}
	spec := &codeqv1.TaskSpec{Command: t.Command, Payload: payload, Priority: int32(clamp(t.Priority))}
	if spec.DelaySeconds, err = wholeSeconds("delay", t.Delay); err != nil {
		return nil, err
	}
	if spec.ExpireSeconds, err = wholeSeconds("expire", t.Expire); err != nil {
		return nil, err
	}
	if !t.RunAt.IsZero() {
		spec.RunAt = timestamppb.New(t.RunAt)
	}
	if t.MaxAttempts != 0 {
		spec.MaxAttempts = proto.Int32(int32(clamp(t.MaxAttempts)))
	}
	spec.IdempotencyKey = optional(t.IdempotencyKey)
	spec.TaskId = optional(t.TaskID)
	spec.Traceparent = optional(t.Trace.Parent)
	spec.Tracestate = optional(t.Trace.State)
	spec.Webhook = optional(t.Webhook)
	spec.ConcurrencyKey = optional(t.ConcurrencyKey)
	spec.RateKey = optional(t.RateKey)
	spec.OrderingKey = optional(t.OrderingKey)
	return spec, nil
}

// clamp keeps a number within 32 bits, where the server rejects it if it is out of range.
func clamp(number int) int { return min(max(number, math.MinInt32), math.MaxInt32) }

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func wholeSeconds(field string, of time.Duration) (*int32, error) {
	if of == 0 {
		return nil, nil
	}
	seconds := math.Ceil(of.Seconds())
	if seconds < 0 || seconds > math.MaxInt32 {
		return nil, codeq.Invalid(field, "must be from 0 to 2147483647 seconds")
	}
	return proto.Int32(int32(seconds)), nil
}

// encode returns the task as a field of ProduceRequest, so that frames are made by joining, and whether it has a key.
func (p *Producer) encode(ctx context.Context, task *Task) (data []byte, isKeyed bool, err error) {
	if task.Trace == (codeq.Trace{}) {
		task.Trace = p.config.Propagator.Inject(ctx)
	}
	if task.IdempotencyKey == "" && task.TaskID == "" && p.addsKeys() {
		task.IdempotencyKey = newKey()
	}
	data, err = task.encoded()
	return data, task.IdempotencyKey != "", err
}

// encoded returns what ProduceRequest{Tasks: {t.Spec()}} encodes to, at a third of the cost.
func (t *Task) encoded() ([]byte, error) {
	payload, err := codeq.EncodeJSON(t.Payload, "payload")
	if err != nil {
		return nil, err
	}
	delay, err := wholeSeconds("delay", t.Delay)
	if err != nil {
		return nil, err
	}
	expire, err := wholeSeconds("expire", t.Expire)
	if err != nil {
		return nil, err
	}
	texts, err := t.texts()
	if err != nil {
		return nil, err
	}
	room := fixedBytesMax + len(payload)
	for _, text := range texts {
		room += len(text)
	}
	spec := make([]byte, prefixBytesMax, prefixBytesMax+room)
	spec = appendText(spec, 1, t.Command)
	spec = protowire.AppendBytes(protowire.AppendTag(spec, 2, protowire.BytesType), payload)
	if t.Priority != 0 {
		spec = appendNumber(spec, 3, int32(clamp(t.Priority)))
	}
	if t.MaxAttempts != 0 {
		spec = appendNumber(spec, 4, int32(clamp(t.MaxAttempts)))
	}
	if !t.RunAt.IsZero() {
		at, _ := proto.Marshal(timestamppb.New(t.RunAt)) // has no text that could be malformed
		spec = protowire.AppendBytes(protowire.AppendTag(spec, 5, protowire.BytesType), at)
	}
	if delay != nil {
		spec = appendNumber(spec, 6, *delay)
	}
	spec = appendText(appendText(appendText(spec, 7, t.Webhook), 8, t.IdempotencyKey), 9, t.TaskID)
	if expire != nil {
		spec = appendNumber(spec, 10, *expire)
	}
	spec = appendText(appendText(spec, 11, t.Trace.Parent), 12, t.Trace.State)
	spec = appendText(appendText(appendText(spec, 13, t.ConcurrencyKey), 14, t.RateKey), 15, t.OrderingKey)
	if len(spec) > itemBytesMax { // no frame has room for it, so it would hold up all creates behind it
		return nil, tooLong(texts[:])
	}
	return prefixed(spec), nil
}

// texts returns the texts of the task in the order of textFields; an error if one cannot be sent.
func (t *Task) texts() (texts [len(textFields)]string, err error) {
	texts = [...]string{
		t.Command, t.IdempotencyKey, t.TaskID, t.Trace.Parent, t.Trace.State, t.Webhook,
		t.ConcurrencyKey, t.RateKey, t.OrderingKey,
	}
	for index, text := range texts {
		if !utf8.ValidString(text) {
			return texts, codeq.Invalid(textFields[index], "is not UTF-8")
		}
	}
	return texts, nil
}

// tooLong returns the error of a task whose texts are too long, naming the longest one.
func tooLong(texts []string) *codeq.Error {
	longest := 0
	for index, text := range texts {
		if len(text) > len(texts[longest]) {
			longest = index
		}
	}
	err := codeq.Invalid(textFields[longest], fmt.Sprintf("has %d bytes, which is too long for a task", len(texts[longest])))
	err.Reason = codeq.ErrTooLarge
	return err
}

const (
	// fixedBytesMax is the size of all fields of a TaskSpec except texts and payload.
	fixedBytesMax = 116
	// prefixBytesMax is the size of the tag and the length before a TaskSpec.
	prefixBytesMax = 6
)

// textFields names the texts of a task in errors.
var textFields = [...]string{
	"command", "idempotencyKey", "taskId", "trace.parent", "trace.state", "webhook",
	"concurrencyKey", "rateKey", "orderingKey",
}

// prefixed puts tag and length into the room at the start of an encoded TaskSpec.
func prefixed(spec []byte) []byte {
	size := uint64(len(spec) - prefixBytesMax)
	start := prefixBytesMax - protowire.SizeTag(tasksField) - protowire.SizeVarint(size)
	protowire.AppendVarint(protowire.AppendTag(spec[:start], tasksField, protowire.BytesType), size)
	return spec[start:]
}

func appendText(data []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return data
	}
	return protowire.AppendString(protowire.AppendTag(data, field, protowire.BytesType), text)
}

func appendNumber(data []byte, field protowire.Number, number int32) []byte {
	return protowire.AppendVarint(protowire.AppendTag(data, field, protowire.VarintType), uint64(int64(number)))
}
