package authenticator

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
)

// Limits of a user file.
const (
	maxUserFile = 16 << 20 // bytes
	maxPolicy   = 8 << 10  // bytes, so that it fits into a token
	minSecret   = 10       // bytes of the secret of a second factor
)

// userName is what a name looks like: it becomes part of a caller id.
var userName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$`)

// Permissions that a user may have, and those that only an organization gives.
var (
	givable = []string{ //nolint:gochecknoglobals // a table
		"election_user", "events_viewer", "fleet_management", "governor", "org_admin", "service",
		"signed_fleet_management", "streams_admin", "streams_user", "system_user",
	}
	ungivable = []string{"authentication_delegator", "provisioner"} //nolint:gochecknoglobals // a table
)

// Grant is what a token says about its party.
type Grant struct {
	Agents      []string // "*", "agent.*" or "agent.action"; none if there is a policy
	Policy      string   // in Rego; "" for none
	Properties  map[string]string
	Permissions []string // by name, sorted
}

// Rights are what users and groups have in common, as the file has it. It is exported
// for decoders alone, which do not fill what is embedded otherwise.
type Rights struct {
	ACLs        []string          `json:"acls"               yaml:"acls"`
	Policy      string            `json:"opa_policy"         yaml:"opa_policy"`
	PolicyFile  string            `json:"opa_policy_file"    yaml:"opa_policy_file"`
	Properties  map[string]string `json:"properties"         yaml:"properties"`
	Permissions map[string]bool   `json:"broker_permissions" yaml:"broker_permissions"`
}

// fileUser is a user as the file has it.
type fileUser struct {
	Username     string   `json:"username"     yaml:"username"`
	Password     string   `json:"password"     yaml:"password"`
	Organization string   `json:"organization" yaml:"organization"`
	Groups       []string `json:"groups"       yaml:"groups"`
	TOTP         string   `json:"totp"         yaml:"totp"`
	Rights       `yaml:",inline"`
}

type userFile struct {
	Users  []fileUser        `json:"users"  yaml:"users"`
	Groups map[string]Rights `json:"groups" yaml:"groups"`
}

// user is one that can log in.
type user struct {
	organization string
	hash         hash
	totp         string // in base32; "" for none
	grant        Grant
}

// Users are those of a user file, with what they may do. They do not change.
type Users struct {
	of     map[string]user
	groups map[string]Rights
	hashes []hash // one for each user, in the order of their names
}

// Len is the number of users.
func (u *Users) Len() int { return len(u.of) }

// ParseUsers reads a user file strictly: the list in JSON that Choria has, or
// an object with users and groups, in JSON or YAML. What a group has, its members
// have. read reads the files of policies that it names. Errors say where, and
// repeat no password, hash or secret.
func ParseUsers(text []byte, read func(path string) ([]byte, error)) (*Users, error) {
	f, err := decodeUsers(text)
	if err != nil {
		return nil, fmt.Errorf("user file: %w", err)
	}
	u := &Users{of: make(map[string]user, len(f.Users)), groups: make(map[string]Rights, len(f.Groups))}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.Groups)) {
		g, err := f.Groups[name].settle(read)
		if err != nil {
			errs = append(errs, fmt.Errorf("group %.80q: %w", name, err))
		}
		u.groups[name] = g
	}
	for i, fu := range f.Users {
		if !userName.MatchString(fu.Username) {
			errs = append(errs, fmt.Errorf("user %d: username %.80q, want letters, digits and @._- beginning with a letter or digit", i+1, fu.Username))
			continue
		}
		if _, twice := u.of[fu.Username]; twice {
			errs = append(errs, fmt.Errorf("user %s is there twice", fu.Username))
			continue
		}
		one, err := u.settle(fu, read)
		if err != nil {
			errs = append(errs, fmt.Errorf("user %s: %w", fu.Username, err))
		}
		u.of[fu.Username] = one
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("user file: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(u.of)) {
		u.hashes = append(u.hashes, u.of[name].hash)
	}
	return u, nil
}

func decodeUsers(text []byte) (userFile, error) {
	var f userFile
	if len(text) > maxUserFile {
		return f, fmt.Errorf("%d bytes are more than %d", len(text), maxUserFile)
	}
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return f, errors.New("it is empty; for no users, write: users: []")
	}
	switch trimmed[0] {
	case '[':
		return f, decodeJSON(text, &f.Users)
	case '{':
		return f, decodeJSON(text, &f)
	}
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		// The text of the file, which the error could show, has hashes in it.
		var e yaml.Error
		if errors.As(err, &e) && e.GetToken() != nil {
			p := e.GetToken().Position
			return f, fmt.Errorf("line %d, column %d: %s", p.Line, p.Column, e.GetMessage())
		}
		return f, errors.New("it is not YAML of users and groups")
	}
	return f, nil
}

// decodeJSON reads one document strictly and says in which line it is wrong.
func decodeJSON(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("there is something after the end")
	}
	at := d.InputOffset()
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = e.Offset
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at, err = e.Offset, fmt.Errorf("%s has to be %s and is %.20s", e.Field, e.Type, e.Value)
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:min(int(at), len(text))], []byte("\n")), err)
}

// settle reads the policy and checks all.
func (r Rights) settle(read func(string) ([]byte, error)) (Rights, error) {
	if r.Policy != "" && r.PolicyFile != "" {
		return r, errors.New("want opa_policy or opa_policy_file, and not both")
	}
	if r.PolicyFile != "" {
		b, err := read(r.PolicyFile)
		if err != nil {
			return r, fmt.Errorf("opa_policy_file: %w", err)
		}
		if r.Policy = string(b); strings.TrimSpace(r.Policy) == "" {
			return r, fmt.Errorf("opa_policy_file %s is empty", r.PolicyFile)
		}
	}
	if len(r.Policy) > maxPolicy {
		return r, fmt.Errorf("a policy of %d bytes does not fit into a token, want %d at most", len(r.Policy), maxPolicy)
	}
	if _, err := policy.ParseAgents(r.ACLs); err != nil {
		return r, fmt.Errorf("acls: %w", err)
	}
	for _, p := range slices.Sorted(maps.Keys(r.Permissions)) {
		if slices.Contains(ungivable, p) && r.Permissions[p] {
			return r, fmt.Errorf("broker_permissions: %s is given by the organization alone, to programs", p)
		}
		if !slices.Contains(givable, p) && !slices.Contains(ungivable, p) {
			return r, fmt.Errorf("broker_permissions: %.80q is not one of %s", p, strings.Join(givable, ", "))
		}
	}
	return r, nil
}

func (u *Users) settle(fu fileUser, read func(string) ([]byte, error)) (user, error) {
	var one user
	var err error
	if one.hash, err = parseHash(fu.Password); err != nil {
		return one, fmt.Errorf("password: %w", err)
	}
	one.organization = fu.Organization
	if one.organization == "" {
		one.organization = trust.DefaultOrganization
	}
	if one.totp, err = parseSecret(fu.TOTP); err != nil {
		return one, err
	}
	own, err := fu.settle(read)
	if err != nil {
		return one, err
	}
	one.grant, err = u.grant(own, fu.Groups)
	return one, err
}

// parseSecret reads the secret of a second factor, with spaces and without padding.
func parseSecret(s string) (string, error) {
	s = strings.ToUpper(strings.TrimRight(strings.ReplaceAll(s, " ", ""), "="))
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(s)
	if err != nil || s != "" && len(b) < minSecret {
		return "", fmt.Errorf("totp: not the base32 of %d bytes or more", minSecret)
	}
	return s, nil
}

// grant is what somebody with rights of their own and those of groups may do.
func (u *Users) grant(own Rights, groups []string) (Grant, error) {
	var g Grant
	fromGroups := map[string]string{}
	names := map[string]bool{}
	policies := map[string]bool{}
	take := func(r Rights) {
		for _, a := range r.ACLs {
			if !slices.Contains(g.Agents, a) {
				g.Agents = append(g.Agents, a)
			}
		}
		for p, has := range r.Permissions {
			names[p] = names[p] || has
		}
		if r.Policy != "" {
			policies[r.Policy] = true
		}
	}
	take(own)
	for _, name := range groups {
		r, ok := u.groups[name]
		if !ok {
			return g, fmt.Errorf("there is no group %.80q", name)
		}
		take(r)
		for k, v := range r.Properties {
			_, settled := own.Properties[k]
			if old, ok := fromGroups[k]; ok && old != v && !settled {
				return g, fmt.Errorf("groups differ in the property %.80q; give the user one of that name", k)
			}
			fromGroups[k] = v
		}
	}
	maps.Copy(fromGroups, own.Properties)
	g.Properties = fromGroups
	for _, p := range slices.Sorted(maps.Keys(names)) {
		if names[p] {
			g.Permissions = append(g.Permissions, p)
		}
	}
	for p := range policies {
		g.Policy = p
	}
	if len(policies) > 1 || len(policies) == 1 && len(g.Agents) > 0 {
		return g, errors.New("want either acls or one policy, groups included")
	}
	return g, nil
}

// hashFor is the hash that a password is compared with. An unknown name has that
// of some user, always the same one, so that names which are known take no other
// time than those which are not, whatever hashes the file has.
func (u *Users) hashFor(name string, secret []byte) hash {
	if one, ok := u.of[name]; ok {
		return one.hash
	}
	if len(u.hashes) == 0 {
		return nobody()
	}
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(name))
	return u.hashes[binary.BigEndian.Uint64(m.Sum(nil))%uint64(len(u.hashes))]
}
