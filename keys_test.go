package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"gatepost/config"
)

// TestEveryKeyIsWired: the value of each key of the table is read where the parts
// are built. A key that nobody reads would be a promise without an effect.
func TestEveryKeyIsWired(t *testing.T) {
	read := make(map[string]bool)
	for _, name := range []string{"main.go", "listen.go", "reload.go", "metrics.go", "guard.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				read[selector(s)] = true
			}
			return true
		})
	}
	for name, field := range config.Fields() {
		if through, ok := wiredThrough()[field]; ok {
			field = through
		}
		// A field, or the struct that has it, handed over as a whole.
		if !read["cfg."+field] && !read["o."+strings.TrimPrefix(field, "Log.")] {
			t.Errorf("%s: nothing reads cfg.%s", name, field)
		}
	}
}

// wiredThrough are the methods and whole structs through which a part gets what
// it does not read itself.
func wiredThrough() map[string]string {
	return map[string]string{
		"Net.Wait":            "Net.Yield",
		"Net.WSOrigins":       "Net.Origins",
		"Wal.Engine":          "Wal.Recycle",
		"API.TokenFile":       "API.Token",
		"Webhook.Events":      "Webhook.Has",
		"Store.Person.MaxAge": "Store", "Store.Person.MaxMessages": "Store", "Store.Person.MaxBytes": "Store",
		"Store.Group.MaxAge": "Store", "Store.Group.MaxMessages": "Store", "Store.Group.MaxBytes": "Store",
		"Profiles.Dir": "Hardware", // applied by Load
	}
}

// selector writes a.b.c, "" when it does not begin with a name.
func selector(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return selector(e.X) + "." + e.Sel.Name
	}
	return ""
}
