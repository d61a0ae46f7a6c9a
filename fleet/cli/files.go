package cli

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/weirhq/weir/fleet/trust"
)

// writeFile writes a file of mode 0600, whole or not at all. One that is there
// stays, unless force is set.
func writeFile(name string, text string, force bool) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone if it became the file
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), name)
	}
	if err := os.Link(f.Name(), name); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; --force replaces it", name)
	} else if err != nil {
		return err
	}
	return nil
}

// readText reads a file with a line of text. Its errors name the file and nothing
// of what is in it.
func readText(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", rejected(err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", rejected(fmt.Errorf("%s is empty", name))
	}
	return text, nil
}

func readToken(name string) (trust.Token, error) {
	text, err := readText(name)
	return trust.NewToken(text), err
}

func readSeed(name string) (ed25519.PrivateKey, error) {
	text, err := readText(name)
	if err != nil {
		return nil, err
	}
	key, err := trust.ParseSeed(text)
	if err != nil {
		return nil, rejected(fmt.Errorf("%s: %w", name, err))
	}
	return key, nil
}

// readKey reads a public key that is given as it is or as the name of a file.
func readKey(s string) (ed25519.PublicKey, error) {
	if key, err := trust.ParseKey(s); err == nil {
		return key, nil
	}
	text, err := readText(s)
	if err != nil {
		return nil, rejected(fmt.Errorf("%.80q is neither a public key nor a file with one: %w", s, err))
	}
	key, err := trust.ParseKey(text)
	if err != nil {
		return nil, rejected(fmt.Errorf("%s: %w", s, err))
	}
	return key, nil
}
