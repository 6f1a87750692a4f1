module bootstrap

go 1.21
