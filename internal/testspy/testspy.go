// Package testspy runs an assertion that is to fail, and says how it did.
package testspy

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Report is what an assertion told its test.
type Report struct {
	Failed bool
	Text   string // of all failures, a line or more each
}

// Run calls assert with a testing.TB that isn't t, and returns what came of it once assert has returned or given up. What
// assert registers with Cleanup runs then, before Run returns.
func Run(t testing.TB, assert func(t testing.TB)) Report {
	s := &spy{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.clean()
		assert(s)
	}()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	return Report{s.failed, strings.Join(s.texts, "\n")}
}

type spy struct {
	testing.TB // of the real test, for all that can't fail

	mu       sync.Mutex
	failed   bool
	texts    []string
	cleanups []func()
}

func (s *spy) fail(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
	if text != "" {
		s.texts = append(s.texts, text)
	}
}

func (s *spy) clean() {
	for {
		s.mu.Lock()
		n := len(s.cleanups)
		if n == 0 {
			s.mu.Unlock()
			return
		}
		last := s.cleanups[n-1]
		s.cleanups = s.cleanups[:n-1]
		s.mu.Unlock()
		last()
	}
}

func (s *spy) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

func (s *spy) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *spy) Helper()                      {}
func (s *spy) Log(args ...any)              {}
func (s *spy) Logf(format string, a ...any) {}
func (s *spy) Fail()                        { s.fail("") }
func (s *spy) FailNow()                     { s.fail(""); runtime.Goexit() }
func (s *spy) Error(args ...any)            { s.fail(fmt.Sprintln(args...)) }
func (s *spy) Errorf(f string, args ...any) { s.fail(fmt.Sprintf(f, args...)) }
func (s *spy) Fatal(args ...any)            { s.fail(fmt.Sprintln(args...)); runtime.Goexit() }
func (s *spy) Fatalf(f string, args ...any) { s.fail(fmt.Sprintf(f, args...)); runtime.Goexit() }
