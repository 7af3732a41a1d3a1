package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/source"
	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own
)

// renderTime is what one rendering may take, by the clock.
const renderTime = 15 * time.Second

// this is this program, to do a piece of work in a process of its own.
func this(work string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, work)
	cmd.Env = []string{"GOGC=50", "GOMAXPROCS=1"}
	return cmd, nil
}

// renderApart renders a folder in a process of its own.
func renderApart(ctx context.Context, f source.Folder, o source.Options) (*source.Rendered, error) {
	cmd, err := this("render")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, renderTime)
	defer cancel()
	return source.RenderApart(ctx, cmd, f, o)
}

// fetchApart fetches a source in a process of its own.
func fetchApart(ctx context.Context, r fetch.Request) (*fetch.Fetched, error) {
	cmd, err := this("fetch")
	if err != nil {
		return nil, err
	}
	return fetch.Apart(ctx, cmd, r)
}

func newRenderCmd() *cobra.Command {
	return &cobra.Command{
		Use: "render", Short: "Render one source from standard input to standard output (for the controller)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return source.ServeApart(os.Stdin, os.Stdout)
		},
	}
}

func newFetchCmd() *cobra.Command {
	return &cobra.Command{
		Use: "fetch", Short: "Fetch one source that standard input names to standard output (for the controller)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fetch.ServeApart(os.Stdin, os.Stdout)
		},
	}
}
