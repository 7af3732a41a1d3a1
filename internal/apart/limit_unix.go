//go:build unix

package apart

import "golang.org/x/sys/unix"

// limit bounds this process's memory and CPU.
func (w Work) limit() error {
	for what, most := range map[int]uint64{unix.RLIMIT_DATA: uint64(w.Memory), unix.RLIMIT_CPU: uint64(w.CPU)} {
		var now unix.Rlimit
		if err := unix.Getrlimit(what, &now); err != nil {
			return err
		}
		most = min(most, uint64(now.Max))
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return err
		}
	}
	return nil
}
