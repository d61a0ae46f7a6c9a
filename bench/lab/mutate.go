package main

import (
	"context"
	"errors"
	"io"
)

func runMutants(ctx context.Context, args []string, out, progress io.Writer) error {
	return errors.New("no")
}
