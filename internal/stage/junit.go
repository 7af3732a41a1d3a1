package stage

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
)

// Tests are what reports in JUnit's form say.
type Tests struct {
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
	Skipped int      `json:"skipped"`
	Names   []string `json:"failures,omitempty"` // the first few of those that failed
}

// mostNames are kept of tests that failed.
const mostNames = 20

// mostReport is how much is read of a report, in bytes.
const mostReport = 64 << 20

// ReadJUnit adds what a report says. Suites may be nested, or have no element around them.
func (t *Tests) ReadJUnit(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := xml.NewDecoder(io.LimitReader(f, mostReport))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "testcase" {
			continue
		}
		var c struct {
			Class   string    `xml:"classname,attr"`
			Name    string    `xml:"name,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		}
		if err := d.DecodeElement(&c, &start); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		switch {
		case c.Failure != nil || c.Error != nil:
			t.Failed++
			if name := c.Name; len(t.Names) < mostNames {
				if c.Class != "" {
					name = c.Class + "." + name
				}
				t.Names = append(t.Names, name)
			}
		case c.Skipped != nil:
			t.Skipped++
		default:
			t.Passed++
		}
	}
}

func (t *Tests) String() string {
	return fmt.Sprintf("%d tests passed, %d failed, %d skipped", t.Passed, t.Failed, t.Skipped)
}
