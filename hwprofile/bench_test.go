package hwprofile

import "testing"

// BenchmarkFor is what the choice costs a start.
func BenchmarkFor(b *testing.B) {
	for b.Loop() {
		For(Facts{Arch: "arm64", CPUs: 4, Memory: 2048 * mib})
	}
}
