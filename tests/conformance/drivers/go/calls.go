package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	optionsv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/options/v1"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	"github.com/osvaldoandrade/codeq/sdks/go/client"
)

func (d *driver) openClient(args json.RawMessage) error {
	var given connection
	if err := decode(args, &given); err != nil {
		return err
	}
	opened, err := client.New(client.Config{
		Addresses: given.Addresses, Token: given.Token, TokenFunc: given.tokenFunc(), TLS: given.tls(), Timeout: given.timeout(),
		RequestKeys: given.RequestKeys,
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[given.Name] = opened
	return nil
}

func (d *driver) closeClient(args json.RawMessage) error {
	var given connection
	if err := decode(args, &given); err != nil {
		return err
	}
	opened, err := named(d, d.clients, given.Name)
	if err != nil {
		return err
	}
	return opened.Close()
}

// call makes a unary call by its name.
func (d *driver) call(verb string, args json.RawMessage) (any, error) {
	method := methodOf(verb)
	if method == nil {
		return nil, unsupported("client." + verb)
	}
	fields := map[string]json.RawMessage{}
	if err := decode(args, &fields); err != nil {
		return nil, err
	}
	var name string
	_ = json.Unmarshal(fields["name"], &name)
	opened, err := named(d, d.clients, name)
	if err != nil {
		return nil, err
	}
	delete(fields, "name")
	if nested, has := fields["request"]; has { // so that a request may have a field of that name, too
		fields = map[string]json.RawMessage{}
		if err := decode(nested, &fields); err != nil {
			return nil, err
		}
	}
	request := newMessage(method.Input())
	if err := fill(request, fields); err != nil {
		return nil, err
	}
	reply := newMessage(method.Output())
	path := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	if err := opened.Invoke(d.ctx, path, request, reply); err != nil {
		return nil, err
	}
	return shown(reply.ProtoReflect()), nil
}

func methodOf(verb string) protoreflect.MethodDescriptor {
	var found protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("codeq.v1", func(file protoreflect.FileDescriptor) bool {
		for index := range file.Services().Len() {
			method := file.Services().Get(index).Methods().ByName(protoreflect.Name(verb))
			if method != nil && !method.IsStreamingClient() {
				found = method
			}
		}
		return true
	})
	return found
}

func newMessage(of protoreflect.MessageDescriptor) proto.Message {
	if known, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName()); err == nil {
		return known.New().Interface()
	}
	return dynamicpb.NewMessage(of)
}

// fill sets the fields of a request from their JSON names. Embedded JSON is taken byte for byte, or as {"raw": text}; enum
// values may lack their prefix.
func fill(request proto.Message, fields map[string]json.RawMessage) error {
	translated, err := translate(request.ProtoReflect().Descriptor(), fields)
	if err != nil {
		return err
	}
	text, err := json.Marshal(translated)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(text, request); err != nil {
		return codeq.Invalid("args", err.Error())
	}
	return nil
}

func translate(of protoreflect.MessageDescriptor, fields map[string]json.RawMessage) (map[string]any, error) {
	translated := map[string]any{}
	for name, value := range fields {
		field := of.Fields().ByJSONName(name)
		if field == nil {
			return nil, codeq.Invalid("args."+name, "is not a field of "+string(of.FullName()))
		}
		if !field.IsList() {
			one, err := translateOne(field, value)
			if err != nil {
				return nil, err
			}
			translated[name] = one
			continue
		}
		var items []json.RawMessage
		if err := json.Unmarshal(value, &items); err != nil {
			return nil, codeq.Invalid("args."+name, err.Error())
		}
		several := make([]any, 0, len(items))
		for _, each := range items {
			one, err := translateOne(field, each)
			if err != nil {
				return nil, err
			}
			several = append(several, one)
		}
		translated[name] = several
	}
	return translated, nil
}

func translateOne(field protoreflect.FieldDescriptor, value json.RawMessage) (any, error) {
	switch {
	case field.Kind() == protoreflect.EnumKind:
		var name string
		if json.Unmarshal(value, &name) == nil && field.Enum().Values().ByName(protoreflect.Name(name)) == nil {
			return prefixOf(field.Enum()) + name, nil
		}
	case field.Kind() == protoreflect.BytesKind && isJSON(field):
		var raw struct {
			Raw *string `json:"raw"`
		}
		if json.Unmarshal(value, &raw) == nil && raw.Raw != nil {
			return []byte(*raw.Raw), nil
		}
		return []byte(value), nil
	case field.Kind() == protoreflect.MessageKind && field.Message().ParentFile().Package() == "codeq.v1":
		var members map[string]json.RawMessage
		if json.Unmarshal(value, &members) == nil {
			return translate(field.Message(), members)
		}
	}
	return value, nil
}

// isJSON reports whether a field of bytes holds one JSON value.
func isJSON(field protoreflect.FieldDescriptor) bool {
	return proto.GetExtension(field.Options(), optionsv1.E_JsonEmbedded).(bool)
}

func prefixOf(enum protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(enum.Values().Get(0).Name()), "UNSPECIFIED")
}

// shown returns a message as the REST API shows it, with embedded JSON as {"raw": text}.
func shown(message protoreflect.Message) map[string]any {
	value := map[string]any{}
	fields := message.Descriptor().Fields()
	for index := range fields.Len() {
		field := fields.Get(index)
		if field.HasPresence() && !message.Has(field) {
			continue
		}
		name := field.JSONName()
		if !field.IsList() {
			value[name] = shownOne(field, message.Get(field))
			continue
		}
		list := message.Get(field).List()
		if list.Len() == 0 && proto.GetExtension(field.Options(), optionsv1.E_OmitEmpty).(bool) {
			continue
		}
		items := make([]any, 0, list.Len())
		for place := range list.Len() {
			items = append(items, shownOne(field, list.Get(place)))
		}
		value[name] = items
	}
	return value
}

func shownOne(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return strings.TrimPrefix(string(known.Name()), prefixOf(field.Enum()))
		}
		return int32(value.Enum())
	case protoreflect.BytesKind:
		if isJSON(field) {
			return map[string]any{"raw": string(value.Bytes())}
		}
		return base64.StdEncoding.EncodeToString(value.Bytes())
	case protoreflect.MessageKind:
		if field.Message().ParentFile().Package() != codeqv1.File_codeq_v1_task_proto.Package() {
			text, _ := protojson.Marshal(value.Message().Interface())
			return json.RawMessage(text)
		}
		return shown(value.Message())
	case protoreflect.Uint64Kind:
		return fmt.Sprint(value.Uint()) // a lease token, which JSON numbers cannot hold
	default:
		return value.Interface()
	}
}
