package config

import (
	"fmt"
	"reflect"
)

// Fields maps the name of each key to the path of its field in Config:
// "net.loops" to "Net.Loops". It is for tests that hold the parts against the
// table.
func Fields() map[string]string {
	c := new(Config)
	paths := make(map[any]string)
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || f.Name == "Hardware" {
				continue
			}
			if f.Type.Kind() == reflect.Struct {
				walk(v.Field(i), path+f.Name+".")
				continue
			}
			paths[v.Field(i).Addr().Interface()] = path + f.Name
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	all := make(map[string]string)
	for _, k := range table() {
		path, ok := paths[k.at(c)]
		if !ok {
			panic(fmt.Sprintf("BUG: %s is stored outside of Config", k.name))
		}
		all[k.name] = path
	}
	return all
}
