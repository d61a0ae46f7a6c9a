package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
	verbs "github.com/weirhq/weir/topology/cli"
)

// Role plays the part that the arguments of a benchmark name, for benchmarks
// start themselves: as a broker, or as weir. It says whether they name one.
func Role(args []string) (is bool, err error) {
	switch {
	case len(args) == 4 && args[0] == roleBroker:
		return true, runBroker(args[1], args[2], args[3])
	case len(args) > 2 && args[0] == roleWeir:
		return true, profiled(args[1], func() error { return runWeir(args[2:]) })
	}
	return false, nil
}

// The first arguments of a benchmark that starts itself.
const (
	roleBroker = "broker"
	roleWeir   = "weir"
)

// BrokerArgs are those with which a benchmark becomes the broker of an overlay.
// Profiles are written to files whose names begin with profile, and to none when
// that is empty.
func (s *Site) BrokerArgs(overlay, profile string) []string {
	return []string{roleBroker, s.Path, overlay, profile}
}

// WeirArgs are those with which a benchmark becomes weir, which is given args.
// Profiles are as those of BrokerArgs.
func WeirArgs(profile string, args ...string) []string {
	return append([]string{roleWeir, profile}, args...)
}

// runWeir is weir as far as it is measured.
func runWeir(args []string) error {
	all, err := parts()
	if err != nil {
		return err
	}
	root := &cobra.Command{Use: "weir", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(verbs.Run(all))
	root.SetArgs(args)
	return root.ExecuteContext(context.Background())
}

// profiled runs a role and writes its profiles to files that begin with out.
func profiled(out string, role func() error) error {
	if out == "" {
		return role()
	}
	stop, err := startProfile(out)
	if err != nil {
		return err
	}
	return errors.Join(role(), stop())
}

// startProfile begins to profile this process, until the function that it
// returns is called.
func startProfile(out string) (stop func() error, err error) {
	f, err := os.Create(out + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		allocs, err := os.Create(out + ".allocs")
		if err != nil {
			return errors.Join(err, f.Close())
		}
		return errors.Join(pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close(), f.Close())
	}, nil
}

// Ready is what a broker says when it can be used.
const Ready = "ready"

// runBroker is the main function of a process that is an overlay's broker: what
// weir run embeds, in a process of its own. It ends when its input does, so it
// does not outlive the benchmark, however that ends. Each line of the input
// begins a profile or ends one.
func runBroker(path, overlay, profile string) error {
	s, err := loadSite(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts, err := s.brokerOptions(overlay)
	if err != nil {
		return err
	}
	b, err := broker.Start(opts)
	if err != nil {
		return err
	}
	defer b.Stop()
	for opts.Uplink != nil && !b.Linked() {
		select {
		case <-ctx.Done():
			return errors.New("told to stop before the link stood")
		case <-time.After(10 * time.Millisecond):
		}
	}
	marks := make(chan struct{})
	go func() {
		defer close(marks)
		for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
			marks <- struct{}{}
		}
	}()
	fmt.Println(Ready)
	var end func() error // of the profile that is being taken
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-marks:
			if !ok {
				return nil
			}
		}
		if end == nil {
			end, err = startProfile(profile)
		} else {
			err, end = end(), nil
		}
		if err != nil {
			return err
		}
	}
}

// brokerOptions are those that weir run starts the broker of an overlay with.
func (s *Site) brokerOptions(overlay string) (broker.Options, error) {
	o := s.File.Overlay(overlay)
	e := o.Broker.Embedded
	opts := broker.Options{
		Overlay: o.Name, Domain: o.Domain(), Store: e.Store, Listen: e.Listen, Leaf: e.Leaf, Sync: e.Sync,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	for _, g := range topology.Grants(s.File) {
		if g.Overlay == o.Name {
			opts.Users = append(opts.Users, broker.User{Name: g.User(), Account: g.Account, Inbox: g.Inbox, Permissions: broker.Permissions(g.Permissions)})
		}
	}
	for _, l := range topology.Links(s.File) {
		switch o.Name {
		case l.Uplink:
			key, err := broker.PublicKey(s.File.Overlay(l.Overlay).Broker.Embedded.Store, broker.LinkUser)
			if err != nil {
				return opts, err
			}
			opts.Leaves = append(opts.Leaves, broker.Leaf{Overlay: l.Overlay, PublicKey: key, Permissions: broker.Permissions(l.Permissions)})
		case l.Overlay:
			up := s.File.Overlay(l.Uplink).Broker.Embedded
			at, err := broker.Find(up.Store, up.Listen, up.Leaf)
			if err != nil {
				return opts, err
			}
			opts.Uplink = &broker.Uplink{URLs: []string{at.Leaf}, Deny: l.Private}
		}
	}
	return opts, nil
}
