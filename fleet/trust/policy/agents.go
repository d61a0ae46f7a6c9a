package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// Agents is a list of what a caller may ask, as tokens have it in the claim agents.
type Agents struct {
	all     bool
	allowed map[string]bool // "agent.action" and "agent.*"
}

var agentEntry = regexp.MustCompile(`^[A-Za-z0-9_-]+\.(\*|[A-Za-z0-9_-]+)$`)

// ParseAgents reads a list of entries, each of which is "*", "agent.*" or
// "agent.action". Any other makes it fail, so a list with a mistake allows
// nothing instead of something else than was meant.
func ParseAgents(entries []string) (Agents, error) {
	a := Agents{allowed: make(map[string]bool, len(entries))}
	for _, e := range entries {
		switch {
		case e == "*":
			a.all = true
		case agentEntry.MatchString(e):
			a.allowed[e] = true
		default:
			return Agents{}, fmt.Errorf("agents: entry %.80q is not *, agent.* or agent.action", e)
		}
	}
	return a, nil
}

// Allow says whether the list has an entry for an action of an agent. Names are
// compared exactly. The zero Agents allow nothing.
func (a Agents) Allow(agent, action string) bool {
	if agent == "" || action == "" || strings.Contains(agent, ".") || action == "*" {
		return false
	}
	return a.all || a.allowed[agent+".*"] || a.allowed[agent+"."+action]
}
