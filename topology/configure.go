package topology

import (
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Setting returns the text of a key of the stage's configuration, and whether the
// key is there. What is no single value has no text.
func (s *Stage) Setting(key string) (text string, ok bool) { return setting(s.With, key) }

// Setting is as that of a stage.
func (p *Program) Setting(key string) (text string, ok bool) { return setting(p.With, key) }

// Configure sets a key of the stage's configuration, over what the file says or
// beside it. The kind sees it when the file is checked again.
func (s *Stage) Configure(key string, value any) error {
	with, err := configured(s.With, key, value)
	if err != nil {
		return fmt.Errorf("stage %s: %w", s.Name, err)
	}
	s.With = with
	return nil
}

// Configure is as that of a stage.
func (p *Program) Configure(key string, value any) error {
	with, err := configured(p.With, key, value)
	if err != nil {
		return fmt.Errorf("program %s: %w", p.Role, err)
	}
	p.With = with
	return nil
}

func setting(with ast.Node, key string) (text string, ok bool) {
	m, _ := with.(*ast.MappingNode)
	if m == nil {
		return "", false
	}
	for _, e := range m.Values {
		if name, _ := scalarText(e.Key); name == key {
			text, _ = scalarText(e.Value)
			return text, true
		}
	}
	return "", false
}

// configured returns a configuration in which a key has another value.
func configured(node ast.Node, key string, value any) (ast.Node, error) {
	var with yaml.MapSlice
	if node != nil {
		if err := yaml.NodeToValue(node, &with, yaml.UseOrderedMap()); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(with, func(e yaml.MapItem) bool { return e.Key == key })
	if i < 0 {
		i = len(with)
		with = append(with, yaml.MapItem{Key: key})
	}
	with[i].Value = value
	text, err := yaml.Marshal(with)
	if err != nil {
		return nil, err
	}
	doc, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, err
	}
	return doc.Docs[0].Body, nil
}
