package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/kube"
)

// laptopFiles is what this laptop keeps of one cluster.
type laptopFiles struct {
	dir        string
	sessions   []*laptopSession
	unreadable map[string]error // files of sessions, by path
	orphans    []string         // files that belong to no session
	err        error            // the folder itself
}

// lookAtLaptop reads the folder; unlike openLaptop it creates nothing.
func lookAtLaptop(c *kube.Cluster) laptopFiles {
	f := laptopFiles{unreadable: map[string]error{}}
	l, err := laptopOf(c)
	if err != nil {
		f.err = err
		return f
	}
	f.dir = l.dir
	entries, err := os.ReadDir(l.dir)
	if err != nil && !os.IsNotExist(err) {
		f.err = err
	}
	for _, e := range entries {
		path := filepath.Join(l.dir, e.Name())
		switch filepath.Ext(path) {
		case ".json":
			s, err := readSession(path)
			if err != nil {
				f.unreadable[path] = err
			} else if s != nil {
				f.sessions = append(f.sessions, s)
			}
		case ".log":
			if !slices.ContainsFunc(entries, func(o os.DirEntry) bool { return o.Name() == strings.TrimSuffix(e.Name(), ".log")+".json" }) {
				f.orphans = append(f.orphans, path)
			}
		case ".tmp":
			f.orphans = append(f.orphans, path)
		}
	}
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
