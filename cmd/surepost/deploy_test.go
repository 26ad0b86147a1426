package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// built builds a program as the Dockerfile does, and returns its path.
func built(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	words := regexp.MustCompile(`(?m)^RUN \[(.*)\]$`).FindStringSubmatch(dockerfile(t))
	if words == nil {
		t.Fatal("the Dockerfile has no RUN [...]")
	}
	args := strings.Split(strings.ReplaceAll(words[1], `"`, ""), ", ")
	args[slices.Index(args, "-o")+1] = program
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func dockerfile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The image is the static binary and the certificates, for a user who is nobody. Where a Docker engine answers, it is built and
// run, by a builder that has the binary already (no registry is asked); what needs no engine is looked at everywhere.
func TestTheImageRunsWithoutARootOrAShell(t *testing.T) {
	program := built(t, ".")
	if runtime.GOOS == "linux" {
		binary, err := elf.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		defer binary.Close()
		for _, p := range binary.Progs {
			if p.Type == elf.PT_INTERP {
				t.Error("the binary is linked dynamically: there is no loader in the image")
			}
		}
	}
	text := dockerfile(t)
	for _, line := range []string{"FROM scratch", "USER 65532:65532", "EXPOSE 8080", `ENTRYPOINT ["/surepost"]`, "ENV CGO_ENABLED=0"} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the Dockerfile has no %q", line)
		}
	}
	if exec.Command("docker", "version").Run() != nil {
		t.Log("no Docker engine answers: the image itself isn't built here")
		return
	}

	// A builder whose go command hands out the binary.
	standIn := t.TempDir()
	for name, source := range map[string]string{"go.mod": "module standin\n\ngo 1.25\n", "main.go": `package main
import ("os"; "slices"; "path/filepath")
func main() {
	to := os.Args[slices.Index(os.Args, "-o")+1]
	b, err := os.ReadFile("/built")
	if err == nil { err = os.MkdirAll(filepath.Dir(to), 0o755) }
	if err == nil { err = os.WriteFile(to, b, 0o755) }
	if err != nil { println(err.Error()); os.Exit(1) }
}`} {
		if err := os.WriteFile(filepath.Join(standIn, name), []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	goCommand := built(t, standIn)
	var image bytes.Buffer
	archive := tar.NewWriter(&image)
	for name, from := range map[string]string{"built": program, "usr/local/bin/go": goCommand, "etc/ssl/certs/ca-certificates.crt": "deploy_test.go"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	const builder, tag = "surepost-test-builder:local", "surepost-test:local"
	docker(t, &image, "import", "-", builder)
	context := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(context, "cmd/surepost"), 0o755), os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	docker(t, nil, "build", "--build-arg", "BUILDER="+builder, "-t", tag, context)
	t.Cleanup(func() { docker(t, nil, "rmi", "-f", tag, builder) })
	if said := docker(t, nil, "run", "--rm", "--read-only", tag, "version"); !strings.Contains(said, runtime.Version()) {
		t.Errorf("version says %s", said)
	}
	if user := docker(t, nil, "inspect", "--format", "{{.Config.User}}", tag); strings.TrimSpace(user) != "65532:65532" {
		t.Errorf("it runs as %s", user)
	}
	if out, err := exec.Command("docker", "run", "--rm", "--entrypoint", "/bin/sh", tag, "-c", "true").CombinedOutput(); err == nil {
		t.Errorf("there is a shell: %s", out)
	}
}

func docker(t *testing.T, in io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// documentsOf parses a YAML file.
func documentsOf(t *testing.T, file string) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var one map[string]any
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, one)
	}
}

// at walks down a document: names of keys, numbers of elements.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[s]
		case int:
			l, _ := v.([]any)
			if s >= len(l) {
				t.Fatalf("no element %d of %v", s, path)
			}
			v = l[s]
		}
	}
	if v == nil {
		t.Fatalf("nothing at %v", path)
	}
	return v
}

// Every command, flag, key, port and path in the manifests is one that the binary has.
func TestTheManifestsFitTheBinary(t *testing.T) {
	program := built(t, ".")
	parses := func(where string, args ...string) {
		t.Helper()
		cmd := exec.Command(program, append(args, "--help")...)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("Commands:")) {
			t.Errorf("%s: surepost %s: %v\n%s", where, strings.Join(args, " "), err, out)
		}
	}
	secrets := t.TempDir()
	for _, name := range []string{"database-password", "broker-password"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	checks := func(where, config string, env ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "surepost.yaml")
		config = regexp.MustCompile(`/(var/)?run/secrets/(surepost/)?`).ReplaceAllString(config, secrets+"/")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "config", "check", "--config", file)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", where, err, out)
		}
	}

	sample, err := os.ReadFile("../../deploy/surepost.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checks("surepost.yaml", string(sample))
	checks("kubernetes/config.yaml", at(t, documentsOf(t, "../../deploy/kubernetes/config.yaml")[0], "data", "surepost.yaml").(string))

	for _, file := range []string{"relay.yaml", "sidecar.yaml"} {
		pod := at(t, documentsOf(t, "../../deploy/kubernetes/"+file)[0], "spec", "template", "spec")
		containers := at(t, pod, "containers").([]any)
		c := containers[len(containers)-1]
		var args []string
		for _, a := range at(t, c, "args").([]any) {
			args = append(args, a.(string))
		}
		parses(file, args...)
		if port := at(t, c, "ports", 0, "containerPort"); port != 8080 {
			t.Errorf("%s: port %v, and the configuration listens on 8080", file, port)
		}
		for probe, path := range map[string]string{"livenessProbe": "/healthz", "readinessProbe": "/readyz"} {
			if got := at(t, c, probe, "httpGet", "path"); got != path {
				t.Errorf("%s: %s asks %v", file, probe, got)
			}
			if got, name := at(t, c, probe, "httpGet", "port"), at(t, c, "ports", 0, "name"); got != name {
				t.Errorf("%s: %s asks port %v", file, probe, got)
			}
		}
		for _, field := range []string{"runAsNonRoot", "readOnlyRootFilesystem"} {
			if at(t, c, "securityContext", field) != true {
				t.Errorf("%s: %s is off", file, field)
			}
		}
		if at(t, c, "volumeMounts", 0, "mountPath") != filepath.Dir(args[len(args)-1]) {
			t.Errorf("%s: the configuration isn't mounted where it is read", file)
		}
		if at(t, pod, "terminationGracePeriodSeconds").(int) <= 10 {
			t.Errorf("%s: the pod is killed before the relay's shutdownTimeout", file)
		}
	}

	compose := documentsOf(t, "../../deploy/compose.yaml")[0]
	for _, service := range []string{"migrate", "relay"} {
		var args []string
		for _, a := range at(t, compose, "services", service, "command").([]any) {
			args = append(args, a.(string))
		}
		parses("compose.yaml", args...)
		var env []string
		for name, value := range at(t, compose, "services", service, "environment").(map[string]any) {
			env = append(env, name+"="+value.(string))
		}
		checks("compose.yaml: "+service, "", env...)
	}

	unit, err := os.ReadFile("../../deploy/systemd/surepost-relay.service")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^ExecStart(?:Pre)?=/usr/local/bin/surepost (.*)$`).FindAllStringSubmatch(string(unit), -1)
	if len(commands) != 2 {
		t.Errorf("%d commands in the unit", len(commands))
	}
	for _, c := range commands {
		parses("surepost-relay.service", strings.Fields(c[1])...)
	}
}
