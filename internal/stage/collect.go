package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	mostLog     = 16 << 20 // bytes that are kept of what one container has printed
	mostCopied  = 1 << 30  // bytes that are kept of files
	logsAtOnce  = 8
	privateDir  = 0o700
	privateFile = 0o600
)

// Collect writes what the pods of a namespace have printed, also those containers that ended before, and its events, into a folder.
// What cannot be had is missing, and is told in the error.
func Collect(ctx context.Context, config *rest.Config, namespace, dir string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), privateDir); err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := events(ctx, client, namespace, filepath.Join(dir, "events.txt")); err != nil {
			fail(err)
		}
	})
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		wg.Wait()
		return errors.Join(append(errs, fmt.Errorf("listing pods: %w", err))...)
	}
	places := make(chan struct{}, logsAtOnce)
	for _, p := range pods.Items {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			for _, previous := range []bool{false, true} {
				if previous && s.RestartCount == 0 || !previous && s.State.Running == nil && s.State.Terminated == nil {
					continue
				}
				wg.Go(func() {
					places <- struct{}{}
					defer func() { <-places }()
					if err := logs(ctx, client, &p, s.Name, previous, filepath.Join(dir, "logs")); err != nil {
						fail(err)
					}
				})
			}
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

func logs(ctx context.Context, client kubernetes.Interface, p *corev1.Pod, container string, previous bool, dir string) error {
	name := p.Name + "." + container
	if previous {
		name += ".previous"
	}
	r, err := client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container, Previous: previous, Timestamps: true, LimitBytes: new(int64(mostLog))}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("reading what %s of pod %s has printed: %w", container, p.Name, err)
	}
	defer r.Close()
	return write(filepath.Join(dir, name+".log"), r)
}

func events(ctx context.Context, client kubernetes.Interface, namespace, path string) error {
	list, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing events: %w", err)
	}
	at := func(e corev1.Event) metav1.Time {
		last := e.CreationTimestamp
		for _, t := range []metav1.Time{e.LastTimestamp, metav1.NewTime(e.EventTime.Time)} {
			if last.Before(&t) {
				last = t
			}
		}
		return last
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int {
		return cmp.Or(at(a).Compare(at(b).Time), strings.Compare(a.Name, b.Name))
	})
	var text strings.Builder
	for _, e := range list.Items {
		fmt.Fprintf(&text, "%s %s %s %s/%s: %s\n", at(e).UTC().Format("2006-01-02T15:04:05Z"), e.Type, e.Reason, strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Name,
			strings.ReplaceAll(e.Message, "\n", " "))
	}
	return write(path, strings.NewReader(text.String()))
}

func write(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, privateFile)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.LimitReader(r, mostCopied))
	return errors.Join(err, f.Close())
}

// Keep copies the files that a pattern names into a folder and returns them, in their order.
func Keep(pattern, dir string) ([]string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return nil, err
	}
	var errs []error
	for _, path := range found {
		errs = append(errs, keep(path, filepath.Join(dir, filepath.Base(path))))
	}
	return found, errors.Join(errs...)
}

func keep(from, to string) error {
	if a, err := os.Stat(from); err != nil || !a.Mode().IsRegular() {
		return err
	} else if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return write(to, f)
}
