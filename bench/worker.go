package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Whatever drains a log runs in a process of its own, as it would in production. In one process the sides would share
// a heap, and the one that holds all messages in memory would pay for the other's garbage collector; and peak memory
// could not be told apart.

const workerCommand = "worker" // this program's own, not for people

// job is what a worker is told.
type job struct {
	Worker   string // which one
	Postgres string // URL of its database
	AMQP     string // URL of the broker
	Events   int    // after which it is done
	Profile  string // file for a CPU profile, or empty
	Parallel int    // what the worker has several of
}

// report is what a worker tells.
type report struct {
	Seconds    float64 // from its start, connecting included, to the last confirm
	Published  int     // all in all: a relay goes on for a moment after Events
	PeakMiB    float64 // of resident memory (VmHWM)
	CPUSeconds float64 // user and system, from its start to the last confirm
}

func (r report) rate(events int) float64 { return float64(events) / r.Seconds }

// workers by name. Each prepares, calls started when its work begins and done when the last event is confirmed, and
// returns how many it published.
var workers = map[string]func(ctx context.Context, j job, w *stopwatch) (published int, err error){
	"relay":     relayWorker,
	"instant":   instantWorker,
	"client":    clientWorker,
	"watermill": watermillWorker,
	"river":     riverWorker,
}

// stopwatch measures a worker.
type stopwatch struct {
	profile     string
	stopProfile func()
	began       time.Time
	cpu         time.Duration
	report      report
}

func (w *stopwatch) start() error {
	var err error
	if w.stopProfile, err = startProfile(w.profile, "cpu"); err != nil {
		return err
	}
	w.cpu, w.began = cpuTime(), time.Now()
	return nil
}

func (w *stopwatch) stop() {
	w.report.Seconds = time.Since(w.began).Seconds()
	w.report.CPUSeconds = (cpuTime() - w.cpu).Seconds()
	w.stopProfile()
}

// work is a worker process: it reads its job, does it and reports.
func work(ctx context.Context, in io.Reader, out io.Writer) error {
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	w := &stopwatch{profile: j.Profile}
	var err error
	if w.report.Published, err = workers[j.Worker](ctx, j, w); err != nil {
		return err
	}
	if w.report.PeakMiB, err = peakMiB(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(w.report)
}

// employ runs a worker in a process of its own and waits for its report.
func (l *lab) employ(ctx context.Context, j job) (report, error) {
	self, err := os.Executable()
	if err != nil {
		return report{}, err
	}
	j.AMQP = l.rabbitmq.URL()
	if l.profile != "" {
		j.Profile = l.profile + "." + j.Worker
	}
	in, err := json.Marshal(j)
	if err != nil {
		return report{}, err
	}
	var out, problems bytes.Buffer
	process := exec.CommandContext(ctx, self, workerCommand)
	process.Stdin, process.Stdout, process.Stderr = bytes.NewReader(in), &out, &problems
	if err := process.Run(); err != nil {
		return report{}, fmt.Errorf("the worker %s: %w: %s", j.Worker, err, problems.String())
	}
	var r report
	return r, json.Unmarshal(out.Bytes(), &r)
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// peakMiB is the most memory that this process has had resident (proc(5), VmHWM).
func peakMiB() (float64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("peak memory is read from Linux's /proc: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("no VmHWM in /proc/self/status"))
}
