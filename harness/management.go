package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

// management is RabbitMQ's HTTP API (RabbitMQ docs, "Management Plugin", "HTTP API"), as far as the
// harness needs it.
type management struct{ base string }

// createVHost makes a virtual host, and a user of the same name who has all rights in it and none
// elsewhere.
func (m management) createVHost(ctx context.Context, name, password string) error {
	user := fmt.Sprintf(`{"password":%q,"tags":""}`, password)
	const all = `{"configure":".*","write":".*","read":".*"}`
	for _, step := range []struct{ path, body string }{
		{"/api/vhosts/" + name, "{}"},
		{"/api/users/" + name, user},
		{"/api/permissions/" + name + "/" + name, all},
	} {
		if err := m.call(ctx, http.MethodPut, step.path, step.body, nil); err != nil {
			return err
		}
	}
	return nil
}

// deleteVHost removes what createVHost made, as far as it is there.
func (m management) deleteVHost(ctx context.Context, name string) error {
	var problems []error
	for _, path := range []string{"/api/vhosts/" + name, "/api/users/" + name} {
		err := m.call(ctx, http.MethodDelete, path, "", nil)
		if !isNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// closeConnections closes a user's connections. That a virtual host has a user of its own makes this
// exact: by their names the API finds only connections that are in its statistics, which are seconds
// old and lack new ones. The API answers 500 where one of them ends by itself meanwhile.
func (m management) closeConnections(ctx context.Context, user string) error {
	path := "/api/connections/username/" + user
	for tries := 1; ; tries++ {
		err := m.call(ctx, http.MethodDelete, path, "", nil)
		if err == nil || isNotFound(err) {
			return nil
		}
		var status *statusError
		if !errors.As(err, &status) || status.code != http.StatusInternalServerError || tries == 5 {
			return err
		}
	}
}

// awaitAlarm waits until the broker's health check tells of an alarm, or no longer does.
func (m management) awaitAlarm(ctx context.Context, raised bool) error {
	return poll(ctx, func() (bool, error) {
		err := m.call(ctx, http.MethodGet, "/api/health/checks/local-alarms", "", nil)
		var status *statusError
		if errors.As(err, &status) && status.code == http.StatusServiceUnavailable {
			return raised, nil
		}
		return !raised, err
	})
}

func poll(ctx context.Context, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// call sends one request. Connections are not kept: an idle one would look to a test like a leak.
func (m management) call(ctx context.Context, method, path, body string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Reason", "surepost harness") // what clients are told when their connection is closed
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("RabbitMQ's management API does not answer: enable the plugin (rabbitmq-plugins enable rabbitmq_management), or set %s: %w",
			server.ManagementVar, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return &statusError{resp.StatusCode, fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, text)}
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// statusError is an answer of the management API that is not a success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	if e.code == http.StatusUnauthorized {
		return e.text + ": the user needs the tag administrator"
	}
	return e.text
}

func isNotFound(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusNotFound
}
