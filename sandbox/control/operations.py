"""The operations that are supported: a name of the service model, and the function that does it.

Invoke and InvokeWithResponseStream are not here: they are no work for the store (invoke.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox.control import capacity, event_configs, functions, layers, policies, settings, versions
from sandbox.control.context import Operation
from sandbox.control.urls import configs

OPERATIONS: Final[Mapping[str, Operation]] = {
    "AddLayerVersionPermission": policies.add_layer_version_permission,
    "AddPermission": policies.add_permission,
    "CreateAlias": versions.create_alias,
    "CreateFunction": functions.create_function,
    "CreateFunctionUrlConfig": configs.create_function_url_config,
    "DeleteAlias": versions.delete_alias,
    "DeleteFunction": functions.delete_function,
    "DeleteFunctionConcurrency": capacity.delete_function_concurrency,
    "DeleteFunctionEventInvokeConfig": event_configs.delete_function_event_invoke_config,
    "DeleteFunctionUrlConfig": configs.delete_function_url_config,
    "DeleteLayerVersion": layers.delete_layer_version,
    "DeleteProvisionedConcurrencyConfig": capacity.delete_provisioned_concurrency_config,
    "GetAccountSettings": capacity.get_account_settings,
    "GetAlias": versions.get_alias,
    "GetFunction": functions.get_function,
    "GetFunctionCodeSigningConfig": settings.get_function_code_signing_config,
    "GetFunctionConcurrency": capacity.get_function_concurrency,
    "GetFunctionConfiguration": functions.get_function_configuration,
    "GetFunctionEventInvokeConfig": event_configs.get_function_event_invoke_config,
    "GetFunctionRecursionConfig": settings.get_function_recursion_config,
    "GetFunctionUrlConfig": configs.get_function_url_config,
    "GetLayerVersion": layers.get_layer_version,
    "GetLayerVersionByArn": layers.get_layer_version_by_arn,
    "GetLayerVersionPolicy": policies.get_layer_version_policy,
    "GetPolicy": policies.get_policy,
    "GetProvisionedConcurrencyConfig": capacity.get_provisioned_concurrency_config,
    "GetRuntimeManagementConfig": settings.get_runtime_management_config,
    "ListAliases": versions.list_aliases,
    "ListFunctionEventInvokeConfigs": event_configs.list_function_event_invoke_configs,
    "ListFunctionUrlConfigs": configs.list_function_url_configs,
    "ListFunctions": functions.list_functions,
    "ListLayerVersions": layers.list_layer_versions,
    "ListLayers": layers.list_layers,
    "ListProvisionedConcurrencyConfigs": capacity.list_provisioned_concurrency_configs,
    "ListTags": settings.list_tags,
    "ListVersionsByFunction": versions.list_versions_by_function,
    "PublishLayerVersion": layers.publish_layer_version,
    "PublishVersion": versions.publish_version,
    "PutFunctionConcurrency": capacity.put_function_concurrency,
    "PutFunctionEventInvokeConfig": event_configs.put_function_event_invoke_config,
    "PutFunctionRecursionConfig": settings.put_function_recursion_config,
    "PutProvisionedConcurrencyConfig": capacity.put_provisioned_concurrency_config,
    "PutRuntimeManagementConfig": settings.put_runtime_management_config,
    "RemoveLayerVersionPermission": policies.remove_layer_version_permission,
    "RemovePermission": policies.remove_permission,
    "TagResource": settings.tag_resource,
    "UntagResource": settings.untag_resource,
    "UpdateAlias": versions.update_alias,
    "UpdateFunctionCode": functions.update_function_code,
    "UpdateFunctionConfiguration": functions.update_function_configuration,
    "UpdateFunctionEventInvokeConfig": event_configs.update_function_event_invoke_config,
    "UpdateFunctionUrlConfig": configs.update_function_url_config,
}
INVOKES: Final = frozenset({"Invoke", "InvokeAsync", "InvokeWithResponseStream"})
SUPPORTED: Final = sorted([*OPERATIONS, *INVOKES])
