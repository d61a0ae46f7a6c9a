package client

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files are where a login is kept.
type Files struct {
	Token string `json:"token_file"`
	Seed  string `json:"seed_file"`
}

// DefaultDir is the directory for logins of the user.
func DefaultDir() (string, error) {
	d, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("directory for the token: %w", err)
	}
	return filepath.Join(d, "weir"), nil
}

// In names the files of a directory.
func In(dir string) Files {
	return Files{filepath.Join(dir, "login.jwt"), filepath.Join(dir, "login.seed")}
}

// Save keeps a login, readable by its owner only, in place of a former one.
func Save(dir string, l Login) (Files, error) {
	f := In(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return f, fmt.Errorf("directory for the token: %w", err)
	}
	seed, err := prepare(f.Seed, hex.EncodeToString(l.Key.Seed())+"\n")
	if err != nil {
		return f, err
	}
	token, err := prepare(f.Token, l.Token.Text()+"\n")
	if err != nil {
		return f, errors.Join(err, os.Remove(seed))
	}
	if err := errors.Join(os.Rename(seed, f.Seed), os.Rename(token, f.Token)); err != nil {
		return f, fmt.Errorf("keep the token: %w", err)
	}
	return f, nil
}

// prepare writes a file beside the one that it will become.
func prepare(path, text string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("keep the token: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return f.Name(), nil
}

// Remove removes a login, and says whether there was one.
func Remove(dir string) (bool, error) {
	f, found := In(dir), false
	for _, path := range []string{f.Token, f.Seed} {
		switch err := os.Remove(path); {
		case err == nil:
			found = true
		case !errors.Is(err, fs.ErrNotExist):
			return found, fmt.Errorf("remove the token: %w", err)
		}
	}
	return found, nil
}
