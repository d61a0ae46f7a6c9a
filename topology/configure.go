package topology

import (
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Setting returns the text of a key of the stage's configuration, and whether the
// key is there. What is no single value has no text.
func (s *Stage) Setting(key string) (text string, ok bool) {
	m, _ := s.With.(*ast.MappingNode)
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

// Configure sets a key of the stage's configuration, over what the file says or
// beside it. The kind sees it when the file is checked again.
func (s *Stage) Configure(key string, value any) error {
	var with yaml.MapSlice
	if s.With != nil {
		if err := yaml.NodeToValue(s.With, &with, yaml.UseOrderedMap()); err != nil {
			return fmt.Errorf("stage %s: %w", s.Name, err)
		}
	}
	found := false
	for i := range with {
		if with[i].Key == key {
			with[i].Value, found = value, true
		}
	}
	if !found {
		with = append(with, yaml.MapItem{Key: key, Value: value})
	}
	text, err := yaml.Marshal(with)
	if err != nil {
		return fmt.Errorf("stage %s: %w", s.Name, err)
	}
	doc, err := parser.ParseBytes(text, 0)
	if err != nil {
		return fmt.Errorf("stage %s: %w", s.Name, err)
	}
	s.With = doc.Docs[0].Body
	return nil
}
