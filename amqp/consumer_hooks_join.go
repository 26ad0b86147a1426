package amqp

// JoinHooks returns hooks that call each of the given ones, in their order: a service's own beside those of metrics and
// traces. A hook that none of them has stays nil.
func JoinHooks(hooks ...ConsumerHooks) ConsumerHooks {
	var joined ConsumerHooks
	for _, h := range hooks {
		joined.OnHandled = both(joined.OnHandled, h.OnHandled)
		joined.OnRetry = both(joined.OnRetry, h.OnRetry)
		joined.OnBatchFailed = both(joined.OnBatchFailed, h.OnBatchFailed)
		joined.OnDeadLetter = both(joined.OnDeadLetter, h.OnDeadLetter)
		joined.OnCall = both(joined.OnCall, h.OnCall)
		joined.OnDisconnect = both(joined.OnDisconnect, h.OnDisconnect)
		switch first, second := joined.OnConnect, h.OnConnect; {
		case first == nil:
			joined.OnConnect = second
		case second != nil:
			joined.OnConnect = func() { first(); second() }
		}
	}
	return joined
}

func both[T any](first, second func(T)) func(T) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(what T) { first(what); second(what) }
}
