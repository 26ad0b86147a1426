package relay

// JoinHooks returns hooks that call each of the given ones, in their order: a service's own beside those of metrics and
// traces. A hook that none of them has stays nil, and costs nothing.
func JoinHooks(hooks ...Hooks) Hooks {
	var joined Hooks
	for _, h := range hooks {
		joined.OnState = both(joined.OnState, h.OnState)
		joined.OnPublished = both(joined.OnPublished, h.OnPublished)
		joined.OnParked = both(joined.OnParked, h.OnParked)
		joined.OnError = both(joined.OnError, h.OnError)
		joined.OnSettled = both(joined.OnSettled, h.OnSettled)
		joined.OnRenew = both(joined.OnRenew, h.OnRenew)
		joined.OnRetention = both(joined.OnRetention, h.OnRetention)
		joined.OnRetry = both3(joined.OnRetry, h.OnRetry)
		joined.OnBlocked = both3(joined.OnBlocked, h.OnBlocked)
		joined.OnRead = both3(joined.OnRead, h.OnRead)
		joined.OnSession = both1(joined.OnSession, h.OnSession)
	}
	return joined
}

func both1[A any](first, second func(A)) func(A) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(a A) { first(a); second(a) }
}

func both[A, B any](first, second func(A, B)) func(A, B) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(a A, b B) { first(a, b); second(a, b) }
}

func both3[A, B, C any](first, second func(A, B, C)) func(A, B, C) {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return func(a A, b B, c C) { first(a, b, c); second(a, b, c) }
}
