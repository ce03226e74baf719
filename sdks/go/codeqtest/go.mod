module github.com/osvaldoandrade/codeq/sdks/go/codeqtest

go 1.26.0

require github.com/osvaldoandrade/codeq/sdks/go v0.0.0

replace github.com/osvaldoandrade/codeq/sdks/go => ../
