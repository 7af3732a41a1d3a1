// Package mention finds the Services that a workload's configuration names: the hosts in its environment, arguments and
// ConfigMaps, and which Service of which namespace each means. Secrets are not read, and values are looked at, never kept.
package mention

import (
	"net"
	"regexp"
	"strconv"
	"strings"
)

// Bounds on what is read of one workload's configuration. What lies beyond is not looked at.
const (
	maxText     = 64 << 10 // bytes of one file or value
	maxMentions = 512      // of one text
)

// Mention is a text that may name a Service: a host and how sure it is to be one.
type Mention struct {
	Host string
	Port int // 0: not said
	Sure bool
	Web  int // the port that the URL's scheme means if it names none; 0: no such scheme
}

var (
	// authority is what follows "//": user information, then hosts with ports, several with commas between (mongodb, kafka).
	authority = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*)://([^\s/?#"'<>` + "`" + `\\|{}^]*)`)
	// hostPort is a name with a port; what stands before and after must not be part of a longer word or path.
	hostPort = regexp.MustCompile(`(?:^|[\s,;"'(=@\[])([a-zA-Z0-9](?:[-a-zA-Z0-9.]*[a-zA-Z0-9])?\.?):([0-9]{1,5})(?:$|[\s,;/"')\]?])`)
	// qualified is a name that can only be a Service's: it goes through "svc".
	qualified = regexp.MustCompile(`(?:^|[\s,;"'(=@/\[])([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?\.svc(?:\.[a-z0-9][-a-z0-9.]*)?)(?:$|[\s,;:/"')\]?])`)
	hostName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?$`)
	// hostWord ends the name of a setting whose value is a host.
	hostWord = regexp.MustCompile(`(?i)(^|[^a-z0-9])([a-z0-9]*host|hostname|addr|address|addresses|url|urls|uri|endpoint|endpoints|service|svc|server|servers|brokers?|upstreams?|backends?|target|targets|hosts|nodes|peers)$`)
	// camelWord is the same for settings that are written in camel case.
	camelWord = regexp.MustCompile(`[a-z0-9](Host|HostName|Hostname|Addr|Address|Addresses|Url|URL|Urls|URLs|Uri|URI|Endpoint|Endpoints|Service|Svc|Server|Servers|Broker|Brokers|Upstream|Backend|Target|Hosts)$`)
	// setting is a line of a file that sets one value: key=value, key: value, "key": "value".
	setting = regexp.MustCompile(`^[\s\-]*["']?([A-Za-z_][\w.\-]*)["']?\s*[:=]\s*["']?([^"'\s#;]+(?:\s*,\s*[^"'\s#;]+)*)["']?\s*[,;]?\s*$`)
)

// isHostKey says whether the name of a setting says that its value is a host or an address.
func isHostKey(key string) bool {
	return hostWord.MatchString(strings.ReplaceAll(key, "-", "_")) || camelWord.MatchString(key)
}

// mentionsOf finds what a setting's value may name. Values are looked at, never kept.
func mentionsOf(key, value string) []Mention {
	out := mentionsIn(value)
	if !isHostKey(key) {
		return out
	}
	for part := range strings.FieldsFuncSeq(clip(value), func(r rune) bool { return r == ',' || r == ';' || r == ' ' }) {
		host, port := splitPort(part)
		if isHost(host) {
			out = append(out, Mention{Host: host, Port: port, Sure: true})
		}
	}
	return out
}

// mentionsIn finds hosts in a text of any kind: those of URLs, names with ports, and names that go through "svc".
func mentionsIn(text string) []Mention {
	text = clip(text)
	var out []Mention
	for _, m := range authority.FindAllStringSubmatch(text, maxMentions) {
		out = append(out, hostsOf(m[1], m[2])...)
	}
	for _, m := range findOverlapping(hostPort, text) {
		if host, port := splitPort(m[1] + ":" + m[2]); isHost(host) && port > 0 {
			out = append(out, Mention{Host: host, Port: port})
		}
	}
	for _, m := range findOverlapping(qualified, text) {
		if isHost(m[1]) {
			out = append(out, Mention{Host: m[1], Sure: true})
		}
	}
	return out
}

// findOverlapping finds matches whose last character may be the first of the next one.
func findOverlapping(re *regexp.Regexp, text string) [][]string {
	var out [][]string
	for at := 0; at < len(text) && len(out) < maxMentions; {
		loc := re.FindStringSubmatchIndex(text[at:])
		if loc == nil {
			break
		}
		m := make([]string, len(loc)/2)
		for i := range m {
			if loc[2*i] >= 0 {
				m[i] = text[at+loc[2*i] : at+loc[2*i+1]]
			}
		}
		out = append(out, m)
		step := loc[len(loc)-1] // the end of the last group: what follows it may begin the next match
		at += max(step, 1)
	}
	return out
}

// hostsOf takes a URL's authority apart.
func hostsOf(scheme, authority string) []Mention {
	web := map[string]int{"http": 80, "ws": 80, "https": 443, "wss": 443}[strings.ToLower(scheme)]
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[i+1:]
	}
	authority = strings.TrimPrefix(authority, "tcp(") // go-sql-driver's
	var out []Mention
	for part := range strings.SplitSeq(authority, ",") {
		host, port := splitPort(strings.TrimRight(part, ")"))
		if isHost(host) {
			out = append(out, Mention{host, port, true, web})
		}
	}
	return out
}

func splitPort(s string) (host string, port int) {
	host, text, ok := strings.Cut(s, ":")
	if !ok {
		return strings.ToLower(s), 0
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return strings.ToLower(host), 0
	}
	return strings.ToLower(host), port
}

func isHost(s string) bool {
	return len(s) <= 253 && hostName.MatchString(s) && net.ParseIP(s) == nil
}

func clip(s string) string { return s[:min(len(s), maxText)] }

// mentionsInFile reads a configuration file of any format: line by line, without comments.
func mentionsInFile(text string) []Mention {
	var out []Mention
	for line := range strings.Lines(clip(text)) {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' || strings.HasPrefix(trimmed, "//") {
			continue
		}
		if m := setting.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
			out = append(out, mentionsOf(m[1], m[2])...)
		} else {
			out = append(out, mentionsIn(trimmed)...)
		}
		if len(out) >= maxMentions {
			break
		}
	}
	return out
}
