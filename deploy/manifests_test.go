package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// kinds are what the manifests have, by apiVersion and kind.
var kinds = map[string]func() any{
	"v1 ConfigMap":                  func() any { return new(corev1.ConfigMap) },
	"v1 Secret":                     func() any { return new(corev1.Secret) },
	"apps/v1 Deployment":            func() any { return new(appsv1.Deployment) },
	"policy/v1 PodDisruptionBudget": func() any { return new(policyv1.PodDisruptionBudget) },
}

// Each field is one that Kubernetes has, of its type: a misspelled one would be dropped in silence by older servers, or refuse the
// whole manifest.
func TestKubernetesKnowsEveryFieldOfTheManifests(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d manifests, %v", len(files), err)
	}
	mounted := map[string]bool{} // what pods ask for, and whether it is there
	var deployments []*appsv1.Deployment
	var budgets []*policyv1.PodDisruptionBudget
	there := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var what metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &what); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			made := kinds[what.APIVersion+" "+what.Kind]
			if made == nil {
				t.Errorf("%s: a %s of %s isn't looked at", file, what.Kind, what.APIVersion)
				continue
			}
			object := made()
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			switch o := object.(type) {
			case *corev1.ConfigMap:
				there["ConfigMap "+o.Name] = true
			case *corev1.Secret:
				there["Secret "+o.Name] = true
			case *appsv1.Deployment:
				deployments = append(deployments, o)
			case *policyv1.PodDisruptionBudget:
				budgets = append(budgets, o)
			}
		}
	}
	selects := func(where string, s *metav1.LabelSelector, of labels.Set) {
		t.Helper()
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil || selector.Empty() || !selector.Matches(of) {
			t.Errorf("%s selects %v and not its pods, which are %v: %v", where, selector, of, err)
		}
	}
	for _, d := range deployments {
		pod := d.Spec.Template
		selects("Deployment "+d.Name, d.Spec.Selector, pod.Labels)
		for _, c := range pod.Spec.TopologySpreadConstraints {
			selects("a spread of "+d.Name, c.LabelSelector, pod.Labels)
		}
		volumes := map[string]bool{}
		for _, v := range pod.Spec.Volumes {
			volumes[v.Name] = true
			switch {
			case v.ConfigMap != nil:
				mounted["ConfigMap "+v.ConfigMap.Name] = true
			case v.Secret != nil:
				mounted["Secret "+v.Secret.SecretName] = true
				if mode := v.Secret.DefaultMode; mode == nil || *mode&0o007 != 0 || pod.Spec.SecurityContext.FSGroup == nil {
					t.Errorf("%s: everybody may read its secrets, or its user may not", d.Name)
				}
			}
		}
		for _, c := range pod.Spec.Containers {
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s: there is no volume %s", d.Name, m.Name)
				}
			}
		}
	}
	for _, b := range budgets {
		for _, d := range deployments {
			if d.Name == b.Name {
				selects("PodDisruptionBudget "+b.Name, b.Spec.Selector, d.Spec.Template.Labels)
			}
		}
	}
	for name := range mounted {
		if !there[name] {
			t.Errorf("a pod wants the %s, which isn't there", name)
		}
	}
	if len(deployments) != 2 || len(budgets) != 1 || len(mounted) != 2 {
		t.Errorf("%d deployments, %d budgets, %d things that are mounted", len(deployments), len(budgets), len(mounted))
	}
}

// systemd says what it doesn't know of a unit, where there is one.
func TestSystemdKnowsEveryLineOfTheUnit(t *testing.T) {
	unit, err := os.ReadFile("systemd/surepost-relay.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"RestartPreventExitStatus=2 3", "NoNewPrivileges=yes", "TimeoutStopSec=30"} {
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("the unit has no %q", line)
		}
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd isn't here: only the text was looked at")
		return
	}
	self, err := os.Executable() // stands for the program, which need not be installed
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "surepost-relay.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(unit), "/usr/local/bin/surepost", self)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(verify, "verify", "--man=no", file).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "surepost-relay.service") { // the others are of the machine's own units
			t.Error(line)
		}
	}
	if err != nil && len(out) == 0 {
		t.Error(err)
	}
}
