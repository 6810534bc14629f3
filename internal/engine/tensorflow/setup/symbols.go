package main

// symbols are the functions of TensorFlow's C API that the binding and the engine call. The shim
// has an entry for each, which jumps to where the library has it.
var symbols = []string{
	"TFE_ContextListDevices", "TFE_ContextOptionsSetAsync", "TFE_ContextOptionsSetConfig", "TFE_DeleteContext",
	"TFE_DeleteContextOptions", "TFE_DeleteTensorHandle", "TFE_NewContext", "TFE_NewContextOptions", "TFE_NewTensorHandle",
	"TFE_TensorHandleBackingDeviceName", "TFE_TensorHandleCopyToDevice", "TFE_TensorHandleDataType",
	"TFE_TensorHandleDeviceName", "TFE_TensorHandleDim", "TFE_TensorHandleNumDims", "TFE_TensorHandleResolve",
	"TF_AddControlInput", "TF_AddGradientsWithPrefix", "TF_AddInput", "TF_AddInputList", "TF_AllocateTensor",
	"TF_CloseSession", "TF_DeleteBuffer", "TF_DeleteDeviceList", "TF_DeleteGraph", "TF_DeleteImportGraphDefOptions",
	"TF_DeletePRunHandle", "TF_DeleteSession", "TF_DeleteSessionOptions", "TF_DeleteStatus", "TF_DeleteTensor",
	"TF_DeviceListCount", "TF_DeviceListMemoryBytes", "TF_DeviceListName", "TF_DeviceListType", "TF_Dim",
	"TF_FinishOperation", "TF_GetCode", "TF_GraphGetTensorNumDims", "TF_GraphGetTensorShape", "TF_GraphImportGraphDef",
	"TF_GraphNextOperation", "TF_GraphOperationByName", "TF_GraphToGraphDef", "TF_ImportGraphDefOptionsSetDefaultDevice",
	"TF_ImportGraphDefOptionsSetPrefix", "TF_LoadSessionFromSavedModel", "TF_Message", "TF_NewBuffer", "TF_NewGraph",
	"TF_NewImportGraphDefOptions", "TF_NewOperation", "TF_NewSession", "TF_NewSessionOptions", "TF_NewStatus", "TF_NumDims",
	"TF_OperationDevice", "TF_OperationGetAttrBool", "TF_OperationGetAttrBoolList", "TF_OperationGetAttrFloat",
	"TF_OperationGetAttrFloatList", "TF_OperationGetAttrInt", "TF_OperationGetAttrIntList", "TF_OperationGetAttrMetadata",
	"TF_OperationGetAttrShape", "TF_OperationGetAttrShapeList", "TF_OperationGetAttrString", "TF_OperationGetAttrStringList",
	"TF_OperationGetAttrTensor", "TF_OperationGetAttrTensorList", "TF_OperationGetAttrType", "TF_OperationGetAttrTypeList",
	"TF_OperationInput", "TF_OperationInputType", "TF_OperationName", "TF_OperationNumInputs", "TF_OperationNumOutputs",
	"TF_OperationOpType", "TF_OperationOutputConsumers", "TF_OperationOutputListLength", "TF_OperationOutputNumConsumers",
	"TF_OperationOutputType", "TF_SessionListDevices", "TF_SessionPRun", "TF_SessionPRunSetup", "TF_SessionRun",
	"TF_SetAttrBool", "TF_SetAttrBoolList", "TF_SetAttrFloat", "TF_SetAttrFloatList", "TF_SetAttrInt", "TF_SetAttrIntList",
	"TF_SetAttrShape", "TF_SetAttrShapeList", "TF_SetAttrString", "TF_SetAttrStringList", "TF_SetAttrTensor",
	"TF_SetAttrTensorList", "TF_SetAttrType", "TF_SetAttrTypeList", "TF_SetConfig", "TF_SetDevice", "TF_SetStatus",
	"TF_SetTarget", "TF_TensorByteSize", "TF_TensorData", "TF_TensorType", "TF_Version",
}

// gone are functions that the binding calls and no library since TensorFlow 2.4 has, when string
// tensors changed their layout. The shim's refuse, with the code of "not implemented".
const gone = `
typedef struct TF_Status TF_Status;
extern void TF_SetStatus(TF_Status *, int, const char *);
static const char no_strings[] = "string tensors are not supported: their layout changed with TensorFlow 2.4";
size_t TF_StringEncode(const char *src, size_t n, char *dst, size_t room, TF_Status *status) {
	(void)src; (void)n; (void)dst; (void)room;
	TF_SetStatus(status, 12, no_strings);
	return 0;
}
size_t TF_StringDecode(const char *src, size_t n, const char **dst, size_t *len, TF_Status *status) {
	(void)src; (void)n; (void)dst; (void)len;
	TF_SetStatus(status, 12, no_strings);
	return 0;
}
size_t TF_StringEncodedSize(size_t n) { return n; }
`

// loader opens the library and fills the table that the entries jump through.
const loader = `
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void absent(void) {
	fputs("tidemill: TensorFlow was called before it was loaded\n", stderr);
	abort();
}

static void *open_in(const char *dir, const char *name, char *why, size_t room) {
	char path[4096];
	if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
		snprintf(why, room, "the folder's name is too long");
		return NULL;
	}
	void *h = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
	if (h == NULL) {
		const char *e = dlerror();
		snprintf(why, room, "%s", e == NULL ? name : e);
	}
	return h;
}

/* tm_tensorflow_dir is the folder that the shim was made for. */
const char *tm_tensorflow_dir(void) { return TM_DIR; }

/* tm_tensorflow_load opens the library in dir. It returns 0, or 1 (why: it cannot be opened) or 2
   (why: functions that it lacks). It may be called again after a failure, by one thread at a time. */
int tm_tensorflow_load(const char *dir, char *why, size_t room) {
	setenv("TF_CPP_MIN_LOG_LEVEL", "2", 0);
	/* Sessions have thread pools of their own, as large as their configuration says. */
	setenv("TF_OVERRIDE_GLOBAL_THREADPOOL", "1", 0);
	if (open_in(dir, "libtensorflow_framework.so.2", why, room) == NULL)
		return 1;
	char first[1024];
	void *h = open_in(dir, "libtensorflow_cc.so.2", first, sizeof first);
	if (h == NULL)
		h = open_in(dir, "libtensorflow.so.2", why, room);
	if (h == NULL) {
		snprintf(why, room, "%s", first);
		return 1;
	}
	void *found[TM_COUNT];
	size_t at = 0;
	why[0] = 0;
	for (size_t i = 0; i < TM_COUNT; i++) {
		found[i] = dlsym(h, names[i]);
		if (found[i] == NULL && at + strlen(names[i]) + 3 < room)
			at += (size_t)snprintf(why + at, room - at, "%s%s", at ? ", " : "", names[i]);
	}
	if (at > 0)
		return 2;
	memcpy(tm_tensorflow_slots, found, sizeof found);
	return 0;
}
`

// checker is a program that loads the library through the shim and prints its version.
const checker = `
#include <stdio.h>
extern int tm_tensorflow_load(const char *dir, char *why, size_t room);
extern const char *TF_Version(void);
int main(int argc, char **argv) {
	char why[8192];
	if (argc != 2) return 2;
	int failed = tm_tensorflow_load(argv[1], why, sizeof why);
	if (failed) {
		fprintf(stderr, failed == 2 ? "it lacks %s\n" : "%s\n", why);
		return 1;
	}
	puts(TF_Version());
	return 0;
}
`
