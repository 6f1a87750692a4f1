# shellcheck shell=bash
exit 7
