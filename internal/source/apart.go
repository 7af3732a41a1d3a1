package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"

	"dayfly.dev/dayfly/internal/apart"
)

// ApartMemory is what a process that renders apart may take, in bytes of data: whoever starts it has that much to spare.
const ApartMemory = 192 << 20

var apartWork = apart.Work{Name: "rendering the source", Blame: "a template of the source may loop, or make too much",
	Memory: ApartMemory, CPU: 60, MostIn: 4 * maxFolder, MostOut: maxOutput + maxFolder}

// request is what goes into such a process.
type request struct {
	Folder  []byte  `json:"folder"` // packed
	Options Options `json:"options"`
}

// RenderApart renders as [Render] does, in a process of its own: a template that loops or fills the memory ends that process
// and nothing else. cmd is a program, not yet started, that calls [ServeApart].
func RenderApart(ctx context.Context, cmd *exec.Cmd, f Folder, o Options) (*Rendered, error) {
	packed, err := f.Pack()
	if err != nil {
		return nil, err
	}
	return apart.Do[request, Rendered](ctx, cmd, apartWork, request{packed, o})
}

// ServeApart renders one source: what [RenderApart] starts calls it with its standard input and output, and exits. It limits
// the whole process, for good: memory, CPU, no HTTP.
func ServeApart(in io.Reader, out io.Writer) error {
	http.DefaultTransport = refusing{}
	return apart.Serve(in, out, apartWork, func(r request) (*Rendered, error) {
		f, err := Unpack(r.Folder)
		if err != nil {
			return nil, err
		}
		return render(context.Background(), f, r.Options)
	})
}

// refusing is a transport that reaches nobody.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("rendering a source fetches nothing")
}
