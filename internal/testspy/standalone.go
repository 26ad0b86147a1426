package testspy

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
)

// Standalone returns what stands for a test's t in an Example, which has none. A failure is printed, and spoils the example's
// output. Call end where the test would end.
func Standalone() (t testing.TB, end func()) {
	s := &standalone{ctx: context.Background()}
	return s, s.clean
}

type standalone struct {
	testing.TB // nil: what an example's test kit calls is below
	ctx        context.Context

	mu       sync.Mutex
	cleanups []func()
}

func (s *standalone) clean() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}

func (s *standalone) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *standalone) Context() context.Context { return s.ctx }
func (s *standalone) Output() io.Writer        { return io.Discard }
func (s *standalone) Helper()                  {}
func (s *standalone) Errorf(f string, a ...any) {
	fmt.Printf(f+"\n", a...)
}

func (s *standalone) Fatalf(f string, a ...any) {
	fmt.Printf(f+"\n", a...)
	runtime.Goexit()
}

func (s *standalone) Fatal(a ...any) {
	fmt.Println(a...)
	runtime.Goexit()
}
