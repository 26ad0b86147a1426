package cli

import (
	"fmt"
	"io"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
)

type configurationGroup struct {
	Print configPrint `cmd:"" help:"Show the effective configuration, where each value comes from, and nothing that is secret."`
	Check configCheck `cmd:"" help:"Say everything that is wrong with it, without connecting."`
	Keys  configKeys  `cmd:"" help:"List what can be configured, with the names of variables and flags."`
}

type configPrint struct{}

// Run shows the configuration even where it is wrong, and then says what is wrong.
func (configPrint) Run(s *session) error {
	c, problems := s.load()
	err := printList(s, c.Settings(), []string{"KEY", "VALUE", "ORIGIN"}, func(v config.Setting) []string {
		return []string{v.Key, orDash(v.Value), v.Origin.String()}
	})
	if err != nil {
		return err
	}
	return problems.OrNil()
}

type configCheck struct {
	NoBroker bool `help:"The broker need not be configured: for commands that only use the database."`
}

func (cmd configCheck) Run(s *session) error {
	c, problems := s.load()
	problems = problems.Add(connect.Validate(c, connect.Needs{Database: true, Broker: !cmd.NoBroker}))
	if err := problems.OrNil(); err != nil {
		return err
	}
	return printOne(s, CheckView{OK: true}, func(w io.Writer, _ CheckView) { fmt.Fprintln(w, "The configuration is right.") })
}

type configKeys struct{}

func (configKeys) Run(s *session) error {
	return printList(s, keyViews(), []string{"KEY", "VARIABLE", "FLAG", "DEFAULT", "MEANING"}, func(k KeyView) []string {
		return []string{k.Key, orDash(k.Env), orDash(k.Flag), orDash(k.Default), k.Help}
	})
}

func keyViews() []KeyView {
	var views []KeyView
	for _, k := range config.Keys() {
		v := KeyView{Key: k.Path, Env: k.Env(), Kind: k.Kind, Default: k.Default, Help: k.Help}
		if k.Flag() != "" {
			v.Flag = "--" + k.Flag()
		}
		views = append(views, v)
	}
	return views
}
