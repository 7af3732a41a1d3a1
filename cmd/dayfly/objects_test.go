package main

import (
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// objects prints what a file of manifests holds, one line an object, and of every container what Pod Security restricted
// asks of it: objects FILE.
func objects(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: objects FILE")
	}
	for _, doc := range strings.Split(ts.ReadFile(args[0]), "---\n")[1:] {
		var o struct {
			APIVersion, Kind string
			Metadata         struct{ Name, Namespace string }
		}
		ts.Check(yaml.UnmarshalStrict([]byte(doc), &map[string]any{}))
		ts.Check(yaml.Unmarshal([]byte(doc), &o))
		fmt.Fprintf(ts.Stdout(), "%s %s %s\n", o.APIVersion, o.Kind, strings.Trim(o.Metadata.Namespace+"/"+o.Metadata.Name, "/"))
		if o.Kind == "Deployment" {
			var d appsv1.Deployment
			ts.Check(yaml.UnmarshalStrict([]byte(doc), &d))
			restricted(ts, &d.Spec.Template.Spec)
		}
	}
}

func restricted(ts *testscript.TestScript, p *corev1.PodSpec) {
	if p.HostNetwork || p.HostPID || p.HostIPC {
		fmt.Fprintln(ts.Stdout(), "  shares a namespace of its node")
	}
	for _, v := range p.Volumes {
		if v.HostPath != nil {
			fmt.Fprintf(ts.Stdout(), "  mounts %s of its node\n", v.HostPath.Path)
		}
	}
	for _, c := range append(p.InitContainers, p.Containers...) {
		s, ps := c.SecurityContext, p.SecurityContext
		if s == nil || ps == nil {
			fmt.Fprintf(ts.Stdout(), "  %s has no security context\n", c.Name)
			continue
		}
		nonRoot := s.RunAsNonRoot != nil && *s.RunAsNonRoot || ps.RunAsNonRoot != nil && *ps.RunAsNonRoot
		seccomp := s.SeccompProfile
		if seccomp == nil {
			seccomp = ps.SeccompProfile
		}
		fmt.Fprintf(ts.Stdout(), "  %s image=%s nonRoot=%t escalation=%t readOnly=%t drop=%v seccomp=%s\n", c.Name, c.Image, nonRoot,
			s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation, s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem,
			s.Capabilities.Drop, seccomp.Type)
	}
}
