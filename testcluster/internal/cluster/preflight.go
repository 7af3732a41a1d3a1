package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// preflight says what the host lacks and how to get it.
func preflight(dir string, shape Shape) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("a cluster's machines are made of namespaces, cgroups and mounts, which only root may make: run it with sudo -E")
	}
	if shape.Nodes < 1 || shape.Nodes > maxNodes {
		return fmt.Errorf("--nodes %d: from 1 to %d are possible", shape.Nodes, maxNodes)
	}
	for _, taken := range []string{"/run", "/usr", "/proc", "/sys", "/dev", "/etc"} {
		if strings.HasPrefix(dir+"/", taken+"/") {
			return fmt.Errorf("--dir %s: machines have a %s of their own; choose a folder elsewhere", dir, taken)
		}
	}
	if missing := missingPackages(shape); len(missing) > 0 {
		return fmt.Errorf("programs are missing on this host; get them with\n  apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("the go command is missing, which builds the cluster's programs: see https://go.dev/dl")
	}
	return needFilesystem("overlay")
}

// missingPackages lists the Debian packages whose files are not there.
func missingPackages(shape Shape) []string {
	files := map[string]string{
		"runc": "runc", "nft": "nftables", "ip": "iproute2", "mount": "mount",
		"/usr/lib/cni/ptp": "containernetworking-plugins", "/usr/lib/cni/host-local": "containernetworking-plugins",
		"/usr/lib/cni/portmap": "containernetworking-plugins",
	}
	if shape.ProxyMode == "iptables" {
		files["iptables"] = "iptables"
	}
	var missing []string
	for file, pkg := range files {
		if !exists(file) && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	slices.Sort(missing)
	return missing
}

func exists(file string) bool {
	if filepath.IsAbs(file) {
		_, err := os.Stat(file)
		return err == nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return true
		}
	}
	return false
}

func needFilesystem(name string) error {
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && !strings.Contains(string(known), "\t"+name+"\n") {
		err = exec.Command("modprobe", name).Run()
	}
	if err != nil {
		return fmt.Errorf("the kernel has no file system %q, which containers need: modprobe %s", name, name)
	}
	return nil
}
