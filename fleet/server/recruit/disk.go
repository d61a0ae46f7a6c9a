package recruit

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weirhq/weir/fleet/server/config"
)

// Disk keeps what a machine is given on its disk: a configuration file of the node,
// and beside it, in a folder with its name and ".d", one folder with the key, the
// token and all else. The file names that folder, so that one rename changes
// everything at once, and a crash at any moment leaves the former state or the new.
type Disk struct {
	Config    string // path of the configuration file
	Provision string // path of the provisioning token, for the next time
	// Remote is the address of the brokers while provisioning, which are those of the
	// node if its configuration names none.
	Remote []string
}

const (
	tokenFile  = "node.jwt"
	seedFile   = "node.seed"
	givenFile  = "given.json" // the whole configuration, as it was given
	caFile     = "ca.pem"
	ownerOnly  = 0o600
	folderMode = 0o700
)

// Directory implements [Keep].
func (d Disk) Directory() string {
	abs, err := filepath.Abs(d.Config)
	if err != nil {
		return filepath.Dir(d.Config)
	}
	return filepath.Dir(abs)
}

func (d Disk) folder() string { return d.Config + ".d" }

// Commit implements [Keep].
func (d Disk) Commit(c Configuration) error {
	if c.Certificate != "" {
		return errors.New("a certificate was given, and none was asked for")
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	name := hex.EncodeToString(b[:])
	dir := filepath.Join(d.folder(), name)
	text, err := d.text(c, filepath.Join(filepath.Base(d.folder()), name))
	if err != nil {
		return err
	}
	err = d.write(dir, c)
	if err == nil {
		err = replace(d.Config, text)
	}
	if err != nil {
		return errors.Join(plain(err), plain(os.RemoveAll(dir)))
	}
	d.tidy(name)
	return nil
}

// plain is an error without the path that it is about.
func plain(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s %s: %w", p.Op, filepath.Base(p.Path), p.Err)
	}
	return err
}

// tidy removes the folders of former configurations. One that stays does no harm.
func (d Disk) tidy(current string) {
	entries, err := os.ReadDir(d.folder())
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != current {
			_ = os.RemoveAll(filepath.Join(d.folder(), e.Name())) // as above
		}
	}
}

// write writes everything but the configuration file.
func (d Disk) write(dir string, c Configuration) error {
	given, err := json.MarshalIndent(c.Values, "", "  ")
	if err != nil {
		return err
	}
	files := map[string]string{
		tokenFile: c.Token.Text() + "\n",
		seedFile:  hex.EncodeToString(c.Key.Seed()) + "\n",
		givenFile: string(given) + "\n",
	}
	if c.CA != "" {
		files[caFile] = c.CA
	}
	for folder, policies := range map[string]map[string]string{"policies": c.ActionPolicies, "opa": c.OPAPolicies} {
		for name, text := range policies {
			if err := safeName(name); err != nil {
				return err
			}
			files[filepath.Join(folder, name)] = text
		}
	}
	folders := map[string]bool{dir: true, d.folder(): true, filepath.Dir(d.Config): true}
	for name, text := range files {
		path := filepath.Join(dir, name)
		folders[filepath.Dir(path)] = true
		if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
			return err
		}
		if err := writeSynced(path, text); err != nil {
			return err
		}
	}
	for folder := range folders {
		if err := syncFolder(folder); err != nil {
			return err
		}
	}
	return nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, ownerOnly)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncFolder makes names in a folder survive a loss of power, where folders can be
// synced.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrInvalid) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// replace puts a text in the place of a file.
func replace(path, text string) error {
	next := path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSynced(next, text); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return syncFolder(filepath.Dir(path))
}

// text is the configuration file. It is JSON, which is YAML too and in which no
// value can be anything but a value.
func (d Disk) text(c Configuration, folder string) (string, error) {
	root := map[string]any{}
	if err := translate(root, c.Values); err != nil {
		return "", err
	}
	broker := inner(root, "broker")
	if broker["urls"] == nil && broker["context"] == nil {
		broker["urls"] = d.Remote
	}
	root["token"], root["seed"] = filepath.Join(folder, tokenFile), filepath.Join(folder, seedFile)
	if c.CA != "" {
		broker["tls"] = map[string]any{"ca": filepath.Join(folder, caFile)}
	}
	root["broker"], root["identity"], root["collectives"] = broker, c.Identity, c.Own.Collectives
	if d.Provision != "" {
		abs, err := filepath.Abs(d.Provision)
		if err != nil {
			return "", err
		}
		root["provision"] = abs
	}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return "", err
	}
	text := "# Written when this machine became a member of the fleet, and written anew when it does again.\n" + string(b) + "\n"
	f, err := config.Decode(d.Config, []byte(text))
	if err != nil {
		return "", fmt.Errorf("the configuration is not right: %w", err)
	}
	if f.Identity != c.Identity || !strings.HasSuffix(f.Credentials.Seed, filepath.Join(folder, seedFile)) {
		return "", errors.New("the configuration is read in another way than it was written")
	}
	return text, nil
}

// ownPrefix begins the names of settings of the node's own configuration file, with
// full stops between the names of its parts.
const ownPrefix = "weir."

// translate fills a configuration from what a provisioner gives: settings of the
// node itself, and those of Choria's that mean something here. Others are passed
// over.
func translate(root map[string]any, values map[string]string) error {
	if hosts := values["plugin.choria.middleware_hosts"]; hosts != "" {
		inner(root, "broker")["urls"] = urls(hosts)
	}
	if text := values["registerinterval"]; text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("registerinterval %.20q is not a number of seconds", text)
		}
		inner(root, "registration")["every"] = text + "s"
	}
	if file := values["classesfile"]; file != "" {
		root["classes_file"] = file
	}
	if file := values["plugin.yaml"]; file != "" {
		inner(root, "facts")["files"] = strings.Split(file, string(os.PathListSeparator))
	}
	for name, text := range values {
		path, ok := strings.CutPrefix(name, ownPrefix)
		if !ok {
			continue
		}
		if err := set(root, strings.Split(path, "."), value(path, text)); err != nil {
			return err
		}
	}
	return nil
}

// value is what a text means: JSON where it is some, a list of URLs, or itself.
func value(path, text string) any {
	var v any
	if path == "broker.urls" && !strings.HasPrefix(text, "[") {
		return urls(text)
	}
	if json.Unmarshal([]byte(text), &v) == nil && !strings.HasPrefix(path, "tags.") {
		return v
	}
	return text
}

func urls(text string) []string {
	var list []string
	for u := range strings.SplitSeq(text, ",") {
		if u = strings.TrimSpace(u); u == "" {
			continue
		}
		if !strings.Contains(u, "://") {
			u = "nats://" + u
		}
		list = append(list, u)
	}
	return list
}

// inner returns the object of that name, which is made if there is none.
func inner(root map[string]any, name string) map[string]any {
	m, ok := root[name].(map[string]any)
	if !ok {
		m = map[string]any{}
		root[name] = m
	}
	return m
}

const maxPath = 4

func set(root map[string]any, path []string, v any) error {
	if len(path) > maxPath {
		return fmt.Errorf("%s%.80s: no setting has so many parts", ownPrefix, strings.Join(path, "."))
	}
	for _, name := range path[:len(path)-1] {
		root = inner(root, name)
	}
	root[path[len(path)-1]] = v
	return nil
}
