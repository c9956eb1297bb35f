package handler

import (
	"context"
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// errorFields is where error codes stand in a struct of an answer. It is worked
// out once per API, so that counting them touches nothing else of an answer.
type errorFields struct {
	code   int // the field, -1 for none
	arrays []errorArray
}

type errorArray struct {
	field  int
	inside *errorFields
}

// findErrors returns nil where no errors can be.
func findErrors(t reflect.Type) *errorFields {
	f := &errorFields{code: -1}
	for i := range t.NumField() {
		field := t.Field(i)
		switch {
		case field.Name == "ErrorCode" && field.Type.Kind() == reflect.Int16:
			f.code = i
		case field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct:
			if in := findErrors(field.Type.Elem()); in != nil {
				f.arrays = append(f.arrays, errorArray{i, in})
			}
		}
	}
	if f.code < 0 && len(f.arrays) == 0 {
		return nil
	}
	return f
}

func (f *errorFields) each(v reflect.Value, do func(protocol.ErrorCode)) {
	if f.code >= 0 {
		if code := v.Field(f.code).Int(); code != 0 {
			do(protocol.ErrorCode(code))
		}
	}
	for _, a := range f.arrays {
		rows := v.Field(a.field)
		for i := range rows.Len() {
			a.inside.each(rows.Index(i), do)
		}
	}
}

// counted is a handler whose answers' errors are counted.
func (b *Broker) counted(key int16, f Func) Func {
	errors := findErrors(reflect.TypeOf(kmsg.ResponseForKey(key)).Elem())
	if errors == nil {
		return f
	}
	count := func(code protocol.ErrorCode) { b.CountError(key, code) }
	return func(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
		f(ctx, r, func(resp *protocol.Response) {
			if resp != nil && resp.Body != nil {
				errors.each(reflect.ValueOf(resp.Body).Elem(), count)
			}
			done(resp)
		})
	}
}
