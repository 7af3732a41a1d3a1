package cli

import (
	"net/url"
	"regexp"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/usererr"
)

// parseRule reads -x flags: "name: value" or "name:value". A line for the header baggage means members of it; the line sni
// means the server name that a TLS connection asks for.
func parseRule(lines []string) (*v1alpha1.Rule, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	rule := &v1alpha1.Rule{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !isToken(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, usererr.New(usererr.Usage, "write it as -x 'name: value', for example -x 'x-user: ada'", "%q is no header", line)
		}
		switch strings.ToLower(name) {
		case "sni":
			if len(lines) > 1 {
				return nil, usererr.New(usererr.Usage, "leave the other -x out", "sni stands alone: what a TLS connection carries cannot be seen")
			}
			return parseServerName(value)
		case "baggage":
			members, err := parseBaggage(value)
			if err != nil {
				return nil, err
			}
			rule.Baggage = append(rule.Baggage, members...)
		default:
			rule.Headers = append(rule.Headers, v1alpha1.HeaderLine{Name: name, Value: value})
		}
	}
	return rule, nil
}

// parseServerName reads the name of a host, in any case, or "*." and one.
func parseServerName(text string) (*v1alpha1.Rule, error) {
	name := strings.ToLower(text)
	if !isServerName(name) {
		return nil, usererr.New(usererr.Usage, "write it as -x 'sni: host.name' or -x 'sni: *.name'", "%q is no server name", text)
	}
	return &v1alpha1.Rule{SNI: name}, nil
}

var serverName = regexp.MustCompile(`^(\*\.)?[-_a-z0-9]{1,63}(\.[-_a-z0-9]{1,63})*$`)

// isServerName is the rule of Rule.SNI.
func isServerName(s string) bool { return len(s) <= 253 && serverName.MatchString(s) }

// parseBaggage reads members as a request carries them: key=value, percent-encoded, with commas between.
func parseBaggage(text string) ([]v1alpha1.BaggageLine, error) {
	var out []v1alpha1.BaggageLine
	for member := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(member, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || !isToken(key) || strings.Contains(value, ";") {
			return nil, usererr.New(usererr.Usage, "write it as -x 'baggage: key=value'", "%q is no member of W3C baggage", strings.TrimSpace(member))
		}
		out = append(out, v1alpha1.BaggageLine{Key: key, Value: value})
	}
	return out, nil
}

// escapeBaggage writes a value as a request carries it.
func escapeBaggage(value string) string { return url.PathEscape(value) }

// isToken says whether s can be the name of a header (RFC 9110).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}
