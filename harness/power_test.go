package harness_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost/harness"
)

// A program that is not a test may crash and halt what is its own, and nothing else.
func TestAProgramSwitchesItsOwnServer(t *testing.T) {
	ctx := t.Context()
	env, err := harness.StartEnv(ctx, harness.Postgres(harness.Private()))
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close()
	power, err := env.Postgres.Power()
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		conn, err := pgx.Connect(ctx, env.Postgres.URL())
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		return conn.Ping(ctx)
	}
	for _, step := range []struct {
		what    string
		do      func(context.Context) error
		running bool
	}{{"kill", power.Kill, false}, {"start", power.Start, true}, {"stop", power.Stop, false}, {"start again", power.Start, true},
		{"pause", power.Pause, true}, {"unpause", power.Unpause, true}} {
		if err := step.do(ctx); err != nil {
			t.Fatal(err)
		}
		if power.Running() != step.running {
			t.Errorf("%s: it runs: %t", step.what, power.Running())
		}
		if step.what == "pause" {
			continue
		}
		if err := ask(); (err == nil) != step.running {
			t.Errorf("%s: it answers with %v", step.what, err)
		}
	}
	if _, err := env.RabbitMQ.Power(); err == nil {
		t.Error("there is a switch of a server that was not asked for")
	}
	if shared := harness.Start(t, harness.Postgres()); shared.Postgres != nil {
		if _, err := shared.Postgres.Power(); err == nil {
			t.Error("there is a switch of a server that others use")
		}
	}
}
