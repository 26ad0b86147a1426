package amqp

import (
	"reflect"
	"testing"
)

func TestJoinedHooksCallEachInOrder(t *testing.T) {
	var calls []string
	observer := func(name string) ConsumerHooks {
		var h ConsumerHooks
		v := reflect.ValueOf(&h).Elem()
		for i := range v.NumField() {
			field := v.Type().Field(i)
			v.Field(i).Set(reflect.MakeFunc(field.Type, func([]reflect.Value) []reflect.Value {
				calls = append(calls, name+" "+field.Name)
				return nil
			}))
		}
		return h
	}
	joined := reflect.ValueOf(JoinHooks(ConsumerHooks{}, observer("first"), ConsumerHooks{}, observer("second")))
	for i := range joined.NumField() {
		name := joined.Type().Field(i).Name
		if joined.Field(i).IsNil() {
			t.Errorf("JoinHooks forgets %s", name)
			continue
		}
		calls = nil
		arguments := make([]reflect.Value, joined.Field(i).Type().NumIn())
		for n := range arguments {
			arguments[n] = reflect.Zero(joined.Field(i).Type().In(n))
		}
		joined.Field(i).Call(arguments)
		if len(calls) != 2 || calls[0] != "first "+name || calls[1] != "second "+name {
			t.Errorf("%s calls %q", name, calls)
		}
	}
	none := reflect.ValueOf(JoinHooks(ConsumerHooks{}, ConsumerHooks{}))
	for i := range none.NumField() {
		if !none.Field(i).IsNil() {
			t.Errorf("%s isn't nil, though nobody wants it", none.Type().Field(i).Name)
		}
	}
}
