# shellcheck shell=bash
return 4
