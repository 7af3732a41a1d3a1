package mention

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Found is one mention in a workload's configuration, and where it stands.
type Found struct {
	Mention
	Where string // for people; never the value
}

// OfPod finds every mention in what a workload's pods are told: environment, command, arguments and ConfigMaps, which
// configMap gives by name (nil: there is none, or it cannot be read).
func OfPod(p *corev1.PodSpec, configMap func(name string) *corev1.ConfigMap) []Found {
	var out []Found
	for i := range p.InitContainers {
		out = append(out, ofContainer(&p.InitContainers[i], configMap)...)
	}
	for i := range p.Containers {
		out = append(out, ofContainer(&p.Containers[i], configMap)...)
	}
	for _, f := range filesOf(p) {
		out = append(out, ofFiles(f, configMap(f.configMap))...)
	}
	return out
}

// variable is one environment variable and where its value comes from.
type variable struct{ name, value, where string }

func ofContainer(c *corev1.Container, configMap func(string) *corev1.ConfigMap) []Found {
	vars := variables(c, configMap)
	values := map[string]string{}
	for _, v := range vars {
		values[v.name] = v.value
	}
	var out []Found
	for _, v := range vars {
		for _, m := range mentionsOf(v.name, v.value) {
			if m.Port == 0 {
				m.Port = portBeside(v.name, values)
			}
			out = append(out, Found{m, v.where})
		}
	}
	args := slices.Concat(c.Command, c.Args)
	for i, a := range args {
		a = expand(a, values)
		key, value, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !ok {
			key, value = "", a
			if i > 0 && strings.HasPrefix(args[i-1], "-") {
				key = strings.TrimLeft(args[i-1], "-")
			}
		}
		for _, m := range mentionsOf(key, value) {
			where := "arguments"
			if key != "" {
				where = "argument " + key
			}
			out = append(out, Found{m, where})
		}
	}
	return out
}

// variables are a container's, with the values that Kubernetes would give them, but for those of Secrets and fields.
func variables(c *corev1.Container, configMap func(string) *corev1.ConfigMap) []variable {
	var out []variable
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef == nil {
			continue
		}
		if m := configMap(from.ConfigMapRef.Name); m != nil {
			for _, k := range slices.Sorted(maps.Keys(m.Data)) {
				out = append(out, variable{from.Prefix + k, m.Data[k], from.Prefix + k + " in configmap " + m.Name})
			}
		}
	}
	values := map[string]string{}
	for _, v := range out {
		values[v.name] = v.value
	}
	for _, e := range c.Env {
		v := variable{e.Name, expand(e.Value, values), e.Name}
		if e.ValueFrom != nil {
			v.value = ""
			if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
				if m := configMap(ref.Name); m != nil {
					v.value, v.where = m.Data[ref.Key], e.Name+" in configmap "+m.Name
				}
			}
		}
		values[v.name] = v.value
		out = append(out, v)
	}
	return out
}

var reference = regexp.MustCompile(`\$\(([A-Za-z_][\w.\-]*)\)`)

// expand replaces $(NAME) as Kubernetes does; what it does not know stays.
func expand(s string, values map[string]string) string {
	s = clip(s)
	if !strings.Contains(s, "$(") {
		return s
	}
	return clip(reference.ReplaceAllStringFunc(s, func(ref string) string {
		if v, ok := values[ref[2:len(ref)-1]]; ok {
			return v
		}
		return ref
	}))
}

var hostSuffix = regexp.MustCompile(`(?i)(_?)(host|hostname|addr|address|server|service_host)$`)

// portBeside finds the port of a host that has a variable of its own: CATALOG_HOST and CATALOG_PORT.
func portBeside(name string, values map[string]string) int {
	loc := hostSuffix.FindStringSubmatchIndex(name)
	if loc == nil {
		return 0
	}
	for _, suffix := range []string{"PORT", "port"} {
		if v, ok := values[name[:loc[3]]+suffix]; ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && n > 0 && n < 65536 {
				return n
			}
		}
	}
	return 0
}

// files are the keys of one ConfigMap that a workload's containers can read as files; no keys: all.
type files struct {
	configMap string
	keys      []string
}

func filesOf(p *corev1.PodSpec) []files {
	var out []files
	add := func(name string, items []corev1.KeyToPath) {
		f := files{configMap: name}
		for _, i := range items {
			f.keys = append(f.keys, i.Key)
		}
		out = append(out, f)
	}
	for _, v := range p.Volumes {
		if v.ConfigMap != nil {
			add(v.ConfigMap.Name, v.ConfigMap.Items)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(s.ConfigMap.Name, s.ConfigMap.Items)
				}
			}
		}
	}
	return out
}

func ofFiles(f files, m *corev1.ConfigMap) []Found {
	if m == nil {
		return nil
	}
	keys := f.keys
	if len(keys) == 0 {
		keys = slices.Sorted(maps.Keys(m.Data))
	}
	var out []Found
	for _, k := range keys {
		for _, mention := range mentionsInFile(m.Data[k]) {
			out = append(out, Found{mention, k + " in configmap " + m.Name})
		}
	}
	return out
}

// ConfigMaps names the ConfigMaps that a workload uses, once each. kube-root-ca.crt is in every pod and names nothing.
func ConfigMaps(p *corev1.PodSpec) []string {
	names := map[string]bool{}
	for _, containers := range [][]corev1.Container{p.InitContainers, p.Containers} {
		for _, c := range containers {
			for _, from := range c.EnvFrom {
				if from.ConfigMapRef != nil {
					names[from.ConfigMapRef.Name] = true
				}
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
					names[e.ValueFrom.ConfigMapKeyRef.Name] = true
				}
			}
		}
	}
	for _, f := range filesOf(p) {
		names[f.configMap] = true
	}
	delete(names, "kube-root-ca.crt")
	return slices.Sorted(maps.Keys(names))
}
