package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// laptopSession is what this laptop keeps of one of its sessions: the key, and which processes answer which routes. It is
// a file that only its owner can read, written before the Session is created.
type laptopSession struct {
	Server    string   `json:"server"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Key       string   `json:"key"` // PEM
	Serving   []served `json:"serving,omitempty"`

	path string
}

// served is a process of this laptop that answers one route.
type served struct {
	Route      string `json:"route"`
	LaptopPort int32  `json:"laptopPort"`
	PID        int    `json:"pid"`
	Started    string `json:"started"` // of the process, as the kernel says: tells it from a successor with its number
}

func (s served) alive() bool { return s.PID > 0 && s.Started != "" && processStart(s.PID) == s.Started }

// processStart says when a process was started, or "" if there is none.
func processStart(pid int) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err == nil {
		_, rest, _ := strings.Cut(string(data), ") ")
		if fields := strings.Fields(rest); len(fields) > 19 && fields[0] != "Z" {
			return fields[19]
		}
		return ""
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return ""
	}
	p, err := os.FindProcess(pid) // a system without /proc
	if err != nil || p.Signal(syscall.Signal(0)) != nil {
		return ""
	}
	return "running"
}

// laptop is the folder of what this laptop keeps of one cluster.
type laptop struct {
	dir    string
	server string
}

// laptopOf names the folder without touching it.
func laptopOf(c *kube.Cluster) (*laptop, error) {
	state, err := stateDir()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(c.Config.Host))
	return &laptop{filepath.Join(state, "sessions", hex.EncodeToString(sum[:6])), c.Config.Host}, nil
}

func openLaptop(c *kube.Cluster) (*laptop, error) {
	l, err := laptopOf(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, usererr.New(usererr.Failed, "set XDG_STATE_HOME to a folder that you may write to", "the session's key cannot be kept").Because(err)
	}
	return l, nil
}

func (l *laptop) path(namespace, name string) string {
	return filepath.Join(l.dir, namespace+"."+name+".json")
}

// get returns what is kept of a session, or nil.
func (l *laptop) get(namespace, name string) (*laptopSession, error) {
	return readSession(l.path(namespace, name))
}

func readSession(path string) (*laptopSession, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the session's file: %w", err)
	}
	s := &laptopSession{path: path}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return s, nil
}

// all returns what is kept of every session of this cluster; with an error also those whose files can be read.
func (l *laptop) all() ([]*laptopSession, error) {
	paths, err := filepath.Glob(filepath.Join(l.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []*laptopSession
	var errs []error
	for _, p := range paths {
		s, err := readSession(p)
		if err != nil {
			errs = append(errs, err)
		} else if s != nil {
			out = append(out, s)
		}
	}
	return out, errors.Join(errs...)
}

// create makes a key for a new session and keeps it.
func (l *laptop) create(namespace, name string) (*laptopSession, error) {
	key, err := identity.NewSessionKey()
	if err != nil {
		return nil, err
	}
	data, err := key.Marshal()
	if err != nil {
		return nil, err
	}
	s := &laptopSession{Server: l.server, Namespace: namespace, Name: name, Key: string(data), path: l.path(namespace, name)}
	fresh := *s
	return s, s.change(func(s *laptopSession) { *s = fresh })
}

// save writes the file whole or not at all. The caller holds the lock "write".
func (s *laptopSession) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	tmp := s.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, s.path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("keeping the session: %w", err)
	}
	return nil
}

// serve notes that a process answers a route, in the place of any other.
func (s *laptopSession) serve(route string, port int32, pid int) error {
	return s.change(func(s *laptopSession) {
		s.drop(route)
		s.Serving = append(s.Serving, served{route, port, pid, processStart(pid)})
	})
}

func (s *laptopSession) drop(route string) {
	s.Serving = slices.DeleteFunc(s.Serving, func(o served) bool { return o.Route == route })
}

// change reads the file again, changes it and writes it, alone.
func (s *laptopSession) change(f func(*laptopSession)) error {
	unlock, err := lockFile(context.Background(), filepath.Join(filepath.Dir(s.path), ".write"))
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := readSession(s.path); err == nil && now != nil {
		*s = *now
	}
	f(s)
	return s.save()
}

// removeUnlessServing removes the file of a session that is gone, unless a process is about to ask for it again.
func (s *laptopSession) removeUnlessServing() error {
	unlock, err := lockFile(context.Background(), filepath.Join(filepath.Dir(s.path), ".write"))
	if err != nil {
		return err
	}
	defer unlock()
	now, err := readSession(s.path)
	if err == nil && now != nil && !slices.ContainsFunc(now.Serving, served.alive) {
		now.remove()
	}
	return err
}

func (s *laptopSession) remove() {
	if s.onDisk() {
		_ = os.Remove(s.path)
		_ = os.Remove(s.log())
	}
}

// onDisk says whether this laptop keeps the session, rather than only knowing its name.
func (s *laptopSession) onDisk() bool { return s.path != "" }

// log is where a process that answers in the background writes to.
func (s *laptopSession) log() string { return strings.TrimSuffix(s.path, ".json") + ".log" }

func (s *laptopSession) objectKey() client.ObjectKey {
	return client.ObjectKey{Namespace: s.Namespace, Name: s.Name}
}

// known says whether a process of this laptop answered the route, be it alive or not.
func (s *laptopSession) known(route string) bool {
	return slices.ContainsFunc(s.Serving, func(o served) bool { return o.Route == route })
}

// serving returns the live process that answers the route, or nil.
func (s *laptopSession) serving(route string) *served {
	for i := range s.Serving {
		if s.Serving[i].Route == route && s.Serving[i].alive() {
			return &s.Serving[i]
		}
	}
	return nil
}

// lock lets one process of this laptop at a time do something with this cluster. A process that dies lets go.
func (l *laptop) lock(ctx context.Context, name string) (unlock func(), err error) {
	return lockFile(ctx, filepath.Join(l.dir, "."+name))
}

func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	for {
		taken, err := flock(f)
		switch {
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		case taken:
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
