package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"dayfly.dev/dayfly/internal/source"
	"github.com/spf13/cobra"
)

// renderTime is what one rendering may take, by the clock.
const renderTime = 15 * time.Second

// renderApart renders a folder in a process of its own.
func renderApart(ctx context.Context, f source.Folder, o source.Options) (*source.Rendered, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, renderTime)
	defer cancel()
	cmd := exec.Command(self, "render")
	cmd.Env = []string{"GOGC=50", "GOMAXPROCS=1"}
	return source.RenderApart(ctx, cmd, f, o)
}

func newRenderCmd() *cobra.Command {
	return &cobra.Command{
		Use: "render", Short: "Render one source from standard input to standard output (for the controller)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return source.ServeApart(os.Stdin, os.Stdout)
		},
	}
}
