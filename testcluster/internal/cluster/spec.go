package cluster

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"dayfly.dev/dayfly/testcluster/internal/machine"
	"dayfly.dev/dayfly/testcluster/internal/pki"
)

//go:embed config
var configs embed.FS

const (
	pauseImage   = "docker.io/dayfly/pause:1"
	corednsImage = "docker.io/dayfly/coredns:1"
	// volumesFolder is one and the same on all machines.
	volumesFolder = "/srv/volumes"
)

// prepareControl writes control's configuration and returns its spec.
func (c *Cluster) prepareControl(a *authorities) (machine.Spec, error) {
	w := c.writer(control)
	w.file("ca.crt", a.cluster.Cert)
	w.file("ca.key", a.cluster.Key)
	w.file("front-proxy-ca.crt", a.frontProxy.Cert)
	w.file("sa.key", a.tokenKey)
	w.file("sa.pub", a.tokenPub)
	w.pair("apiserver", a.cluster, pki.Subject{
		Name: "kube-apiserver",
		Hosts: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			"localhost"},
		IPs: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(apiService), net.ParseIP(controlIP), c.controlEnd().AsSlice()},
	})
	w.pair("kubelet-client", a.cluster, pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	w.pair("front-proxy-client", a.frontProxy, pki.Subject{Name: "front-proxy-client"})
	w.kubeconfig("controller-manager", a, pki.Subject{Name: "system:kube-controller-manager"})
	w.kubeconfig("scheduler", a, pki.Subject{Name: "system:kube-scheduler"})
	w.kubeconfig("storage", a, pki.Subject{Name: "system:storage"})
	w.template("audit.yaml", nil)
	w.pair("registry", a.cluster, pki.Subject{Name: "registry", Hosts: []string{RegistryHost}, IPs: []net.IP{net.ParseIP(controlIP), net.ParseIP("127.0.0.1")}})
	w.template("registry.yaml", map[string]string{"Port": registryPort})

	inside, outside := c.controlCables()
	spec := c.spec(control, "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "storage", "registry")
	spec.Links, spec.Uplink = inside, outside
	spec.Components = controlComponents()
	return spec, w.err
}

// prepareNode writes a node's configuration and returns its spec.
func (c *Cluster) prepareNode(i int, a *authorities) (machine.Spec, error) {
	name := nodeName(i)
	cgroup := c.cgroup() + "/" + name
	w := c.writer(name)
	w.file("ca.crt", a.cluster.Cert)
	w.pair("kubelet-serving", a.cluster, pki.Subject{
		Name: "system:node:" + name, Groups: []string{"system:nodes"},
		Hosts: []string{name}, IPs: []net.IP{net.ParseIP(nodeIP(i)), net.ParseIP("127.0.0.1")},
	})
	w.kubeconfig("kubelet", a, pki.Subject{Name: "system:node:" + name, Groups: []string{"system:nodes"}})
	w.kubeconfig("kube-proxy", a, pki.Subject{Name: "system:kube-proxy"})
	w.kubeconfig("netpol", a, pki.Subject{Name: "system:netpol"})
	w.template("containerd.toml", map[string]string{"Snapshotter": c.snapshotter(), "PauseImage": pauseImage})
	w.templateTo("registries/"+RegistryHost+"/hosts.toml", "hosts.toml", map[string]string{"Address": controlIP + ":" + registryPort})
	w.template("kubelet.yaml", map[string]string{"DNS": dnsService, "Cgroup": cgroup})
	w.template("kube-proxy.yaml", map[string]string{"ProxyMode": c.ProxyMode, "Node": name, "PodsCIDR": podsCIDR})
	w.templateTo("cni/pods.conflist", "cni.json", map[string]string{"PodCIDR": nodePodCIDR(i)})

	inside, outside := c.nodeCables(i)
	spec := c.spec(name, "containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "netpol")
	spec.Links, spec.Uplink = inside, outside
	spec.Cgroups = []string{cgroup}
	spec.Binds["/opt/images"] = c.path("images")
	spec.ReadOnly = append(spec.ReadOnly, "/opt/images")
	maps.Copy(spec.Sysctls, map[string]string{
		"net/ipv4/ip_forward": "1",
		// A pod that talks to itself through its Service comes back by the way it went.
		"net/ipv4/conf/all/send_redirects":     "0",
		"net/ipv4/conf/default/send_redirects": "0",
		"net/ipv4/conf/all/rp_filter":          "0",
		"net/ipv4/conf/default/rp_filter":      "0",
	})
	// kubelet insists on these. They are the whole host's, whose owner has decided about them.
	spec.Pretend = map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	}
	spec.Components = nodeComponents(i)
	return spec, w.err
}

// spec is what all machines have in common. programs are put into its search path.
func (c *Cluster) spec(name string, programs ...string) machine.Spec {
	s := machine.Spec{Name: name, Dir: c.machineDir(name), Nameserver: dnsService, Binds: map[string]string{}}
	for _, p := range programs {
		file, ok := c.Programs[p]
		if !ok {
			file = c.Programs["kubernetes"] // which looks at the name it is called by
		}
		s.Binds["/opt/bin/"+p] = file
		s.ReadOnly = append(s.ReadOnly, "/opt/bin/"+p)
	}
	// The connections of a machine without power keep its network, and what is plugged into it, from vanishing until the
	// kernel gives up on them.
	s.Sysctls = map[string]string{"net/ipv4/tcp_orphan_retries": "1"}
	s.Binds[volumesFolder] = c.path("volumes")
	return s
}

// cgroup holds the cgroups of all nodes.
func (c *Cluster) cgroup() string { return "/dayfly-" + c.ID }

// snapshotter is how containerd lays images over each other; an overlay cannot lie on an overlay.
func (c *Cluster) snapshotter() string {
	var stat unix.Statfs_t
	if err := unix.Statfs(c.Dir, &stat); err == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

func controlComponents() []machine.Component {
	return []machine.Component{
		{
			Name:  "etcd",
			Ready: "http://127.0.0.1:2379/health",
			Command: []string{"etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
				"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
				"--listen-peer-urls=http://127.0.0.1:2380", "--auto-compaction-retention=1h"},
		}, {
			Name:    "kube-apiserver",
			Ready:   "https://127.0.0.1:6443/readyz",
			Command: apiserverCommand(),
		}, {
			Name: "kube-controller-manager",
			Command: []string{"kube-controller-manager", "--kubeconfig=/etc/kubernetes/controller-manager.kubeconfig",
				"--leader-elect=false", "--use-service-account-credentials",
				"--service-account-private-key-file=/etc/kubernetes/sa.key", "--root-ca-file=/etc/kubernetes/ca.crt",
				"--cluster-signing-cert-file=/etc/kubernetes/ca.crt", "--cluster-signing-key-file=/etc/kubernetes/ca.key",
				"--cluster-cidr=" + podsCIDR, "--allocate-node-cidrs=false",
				"--node-monitor-period=2s", "--node-monitor-grace-period=16s"},
		}, {
			Name:    "kube-scheduler",
			Command: []string{"kube-scheduler", "--kubeconfig=/etc/kubernetes/scheduler.kubeconfig", "--leader-elect=false"},
		}, {
			Name:    "storage",
			Command: []string{"storage", "--kubeconfig=/etc/kubernetes/storage.kubeconfig", "--folder=" + volumesFolder},
		}, {
			Name:    "registry",
			Ready:   "https://127.0.0.1:" + registryPort + "/v2/",
			Command: []string{"registry", "serve", "/etc/kubernetes/registry.yaml"},
			Env:     []string{"OTEL_TRACES_EXPORTER=none"}, // it would look for a collector
		},
	}
}

func apiserverCommand() []string {
	return []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + controlIP, "--service-cluster-ip-range=" + servicesCIDR,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=/etc/kubernetes/ca.crt",
		"--tls-cert-file=/etc/kubernetes/apiserver.crt", "--tls-private-key-file=/etc/kubernetes/apiserver.key",
		"--kubelet-certificate-authority=/etc/kubernetes/ca.crt", "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=/etc/kubernetes/kubelet-client.crt", "--kubelet-client-key=/etc/kubernetes/kubelet-client.key",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=/etc/kubernetes/sa.pub", "--service-account-signing-key-file=/etc/kubernetes/sa.key",
		"--requestheader-client-ca-file=/etc/kubernetes/front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=/etc/kubernetes/front-proxy-client.crt", "--proxy-client-key-file=/etc/kubernetes/front-proxy-client.key",
		// There is no kube-proxy on this machine: a Service's endpoints are dialled directly.
		"--enable-aggregator-routing",
		"--audit-policy-file=/etc/kubernetes/audit.yaml", "--audit-log-path=/var/log/audit.log",
		"--audit-log-maxsize=20", "--audit-log-maxbackup=1",
		"--allow-privileged", "--shutdown-delay-duration=0s"}
}

func nodeComponents(i int) []machine.Component {
	name := nodeName(i)
	zone := string(rune('a' + i - 1))
	return []machine.Component{
		{
			Name:    "containerd",
			Ready:   "unix:/run/containerd/containerd.sock",
			Command: []string{"containerd", "--config=/etc/kubernetes/containerd.toml", "--log-level=info"},
		}, {
			Name:    "images",
			Once:    true,
			Command: []string{"sh", "-ec", "for image in /opt/images/*.tar; do ctr -n k8s.io images import --local $image; done"},
		}, {
			Name:  "api-server", // which they all need
			Ready: "https://" + controlIP + ":6443/readyz",
		}, {
			Name:  "kubelet",
			Ready: "http://127.0.0.1:10248/healthz",
			Command: []string{"kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
				"--hostname-override=" + name, "--node-ip=" + nodeIP(i),
				"--node-labels=topology.kubernetes.io/region=testcluster,topology.kubernetes.io/zone=zone-" + zone},
		}, {
			Name:    "kube-proxy",
			Command: []string{"kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml"},
		}, {
			Name:    "netpol",
			Command: []string{"netpol", "--kubeconfig=/etc/kubernetes/netpol.kubeconfig", "--node=" + name},
		},
	}
}

// authorities are what a cluster signs with.
type authorities struct {
	cluster, frontProxy *pki.Authority
	tokenKey, tokenPub  pki.PEM
}

func (c *Cluster) openAuthorities() (*authorities, error) {
	var a authorities
	var err error
	if a.cluster, err = pki.OpenAuthority(c.path("pki"), "ca"); err != nil {
		return nil, err
	}
	if a.frontProxy, err = pki.OpenAuthority(c.path("pki"), "front-proxy-ca"); err != nil {
		return nil, err
	}
	a.tokenKey, a.tokenPub, err = pki.OpenKey(c.path("pki"), "sa")
	return &a, err
}

// writeKubeconfig writes the user's kubeconfig.
func (c *Cluster) writeKubeconfig(a *authorities) error {
	server := fmt.Sprintf("https://%s:6443", c.controlEnd())
	content, err := kubeconfig(a, server, pki.Subject{Name: "testcluster-admin", Groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	return pki.WriteFile(c.Kubeconfig(), content, 0o600)
}

func kubeconfig(a *authorities, server string, user pki.Subject) ([]byte, error) {
	cert, key, err := a.cluster.Sign(user)
	if err != nil {
		return nil, err
	}
	text := base64.StdEncoding.EncodeToString
	return render("kubeconfig.yaml", map[string]string{
		"Context": "testcluster", "User": user.Name, "Server": server,
		"CA": text(a.cluster.Cert), "Cert": text(cert), "Key": text(key),
	})
}

func render(name string, data any) ([]byte, error) {
	t, err := template.ParseFS(configs, "config/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, data)
	return out.Bytes(), err
}

// writer writes the configuration of a machine, which finds it in /etc/kubernetes. The first error sticks.
type writer struct {
	dir string
	err error
}

func (c *Cluster) writer(machine string) *writer {
	return &writer{dir: filepath.Join(c.machineDir(machine), "etc")}
}

func (w *writer) file(name string, content []byte) {
	if w.err == nil {
		w.err = pki.WriteFile(filepath.Join(w.dir, name), content, 0o600)
	}
}

func (w *writer) pair(name string, by *pki.Authority, s pki.Subject) {
	cert, key, err := by.Sign(s)
	if w.err == nil {
		w.err = err
	}
	w.file(name+".crt", cert)
	w.file(name+".key", key)
}

func (w *writer) kubeconfig(name string, a *authorities, user pki.Subject) {
	content, err := kubeconfig(a, "https://"+controlIP+":6443", user)
	if w.err == nil {
		w.err = err
	}
	w.file(name+".kubeconfig", content)
}

func (w *writer) template(name string, data any) { w.templateTo(name, name, data) }

func (w *writer) templateTo(to, name string, data any) {
	content, err := render(name, data)
	if w.err == nil {
		w.err = err
	}
	w.file(strings.TrimPrefix(to, "/"), content)
}
