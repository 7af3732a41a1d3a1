//go:build unix

package source

import "golang.org/x/sys/unix"

// limit bounds this process's memory and CPU.
func limit() error {
	for what, most := range map[int]uint64{unix.RLIMIT_DATA: ApartMemory, unix.RLIMIT_CPU: apartCPU} {
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
