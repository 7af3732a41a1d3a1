package machine

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// searchPath is where the machine's programs are: those bound into it first.
const searchPath = "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// supervise starts the components in order and keeps them running until the machine loses power.
func supervise(components []Component) {
	r := &reaper{waiting: map[int]chan syscall.WaitStatus{}}
	go r.run()
	for _, c := range components {
		say("%s: starting", c.Name)
		began := time.Now()
		ended := make(chan struct{})
		if len(c.Command) > 0 {
			go func() { defer close(ended); c.keep(r) }()
		}
		if c.Once {
			<-ended
		}
		for !c.ready() {
			time.Sleep(20 * time.Millisecond)
		}
		say("%s: ready after %s", c.Name, time.Since(began).Round(time.Millisecond))
	}
	select {}
}

// keep runs a component, again and again unless it is to run once; the longer it fails, the less often.
func (c Component) keep(r *reaper) {
	pause := 100 * time.Millisecond
	for {
		began := time.Now()
		outcome, ok := c.run(r)
		if ok && c.Once {
			return
		}
		if time.Since(began) > 30*time.Second {
			pause = 100 * time.Millisecond
		}
		say("%s: %s after %s; starting it again in %s", c.Name, outcome, time.Since(began).Round(time.Millisecond), pause)
		time.Sleep(pause)
		pause = min(2*pause, 5*time.Second)
	}
}

func (c Component) run(r *reaper) (outcome string, ok bool) {
	log, err := openLog(filepath.Join("/var/log", c.Name+".log"))
	if err != nil {
		return err.Error(), false
	}
	defer log.Close()
	path, err := lookup(c.Command[0])
	if err != nil {
		return err.Error(), false
	}
	exit, err := r.start(path, c.Command, &syscall.ProcAttr{
		Dir:   "/",
		Env:   append([]string{"PATH=" + searchPath, "HOME=/root"}, c.Env...),
		Files: []uintptr{0, log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Sprintf("starting %s: %v", path, err), false
	}
	status := <-exit
	if status.Signaled() {
		return "killed by " + status.Signal().String(), false
	}
	return fmt.Sprintf("ended with status %d", status.ExitStatus()), status.ExitStatus() == 0
}

func lookup(name string) (string, error) {
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s", name, searchPath)
}

// ready asks once.
func (c Component) ready() bool {
	if path, ok := strings.CutPrefix(c.Ready, "unix:"); ok {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}
	return c.Ready == "" || answers(c.Ready)
}

// answers tells whether an HTTP GET gives 200. It sends nothing that needs protection and cannot know the certificate.
func answers(url string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// reaper waits for all children: the components, and the orphans that the kernel gives to the first process.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (<-chan syscall.WaitStatus, error) {
	r.mu.Lock() // until the child is known, so that it cannot be taken for an orphan
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	exit := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = exit
	return exit, nil
}

func (r *reaper) run() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil { // no child at all
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.mu.Lock()
		if exit, ok := r.waiting[pid]; ok {
			exit <- status
			delete(r.waiting, pid)
		}
		r.mu.Unlock()
	}
}

// say writes to the machine's own log.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
}
